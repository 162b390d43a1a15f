"""What a run will take, before anything runs: device time, jobs, disk."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedome.embedding.cost import CostModel
from embedome.embedding.length_histogram import Lengths

# Bytes of a row beside its vectors: id, digest, numbers and state, compressed (docs/performance.md).
ROW_BYTES = 60
HALF = 2  # bytes of a float16


@dataclass(frozen=True, slots=True)
class Job:
    """What is planned.

    Parameters
    ----------
    lengths : Lengths
    cost : CostModel
        Of the model on one device.
    dimension : int
        Numbers of a vector.
    poolings : int
        Vectors of a sequence.
    devices : int
        That work at once.
    minutes : float
        Device time of a job, about.
    """

    lengths: Lengths
    cost: CostModel
    dimension: int
    poolings: int = 1
    devices: int = 1
    minutes: float = 30.0


def make_plan(job: Job) -> dict[str, Any]:
    """Add up what a run will take.

    Returns
    -------
    dict
        Sequences and residues, residues used; device hours; shards and minutes of each; hours of wall-clock time on
        the devices; bytes of the data set and of per-residue embeddings.
    """
    lengths, cost = job.lengths, job.cost
    # In floating point: nothing here has to add up to the last bit.
    seconds = float((cost.picoseconds(lengths.length).astype(np.float64) * lengths.count).sum() * 1e-12)
    used = int((np.minimum(lengths.length, cost.longest or lengths.length[-1]) * lengths.count).sum())
    shards = max(1, math.ceil(seconds / (60 * job.minutes)))
    rounds = math.ceil(shards / job.devices)
    return {
        "sequences": lengths.sequences,
        "residues": lengths.residues,
        "residues_used": used,
        "device_hours": seconds / 3600,
        "shards": shards,
        "minutes_per_shard": seconds / 60 / shards,
        "devices": job.devices,
        "wall_clock_hours": rounds * seconds / shards / 3600,
        "bytes_per_protein": lengths.sequences * (ROW_BYTES + HALF * job.dimension * job.poolings),
        "bytes_per_residue": HALF * job.dimension * used,
    }
