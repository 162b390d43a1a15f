"""Each part of a shard is laid out, run on the device, fetched, recomputed where it must be, and written.

While one part runs on the device, the next is read and laid out, and those before it are fetched and written: one at a
time, or with per-residue embeddings, which take long to encode, one in each of several threads.
"""

import gc
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from embedome.common.json_files import json_sha256
from embedome.common.parallel import look_ahead, map_in_order, process_pool, threads
from embedome.common.terms import NON_FINITE
from embedome.common.work_count import PartWork, count_work
from embedome.embedding.metrics import DEVICE, READING, WRITING, Clock
from embedome.embedding.parts import EmbeddedPart, Part, is_written, part_entry, write
from embedome.embedding.settings import EmbedSettings
from embedome.engine.batch_layout import BatchLayout, lay_out
from embedome.engine.device import room_for
from embedome.engine.engine import Embedded, Engine, Running
from embedome.engine.windows import Sequences
from embedome.models.directory import Model, empty_model, load_model
from embedome.sequences.records import Record

log = logging.getLogger(__name__)


# Writers at most where nobody says how many: each takes the memory of a part.
MOST_WRITERS = 8
# What to do where memory runs out.
LARGER_DEVICE = "run again on a device with more memory; finished parts are kept"
SMALLER_PARTS = f"{LARGER_DEVICE}. Or lower embed.part_sequences, which cuts all parts again"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how parts are run: what does not change the numbers.

    Parameters
    ----------
    device : str
        ``cpu`` or ``cuda``.
    attempt : int
        As in `engine.Engine`.
    workers : int
        Processes that embed one part each.
    writers : int
        Threads that fetch and write one part each, where per-residue embeddings are written.
    """

    device: str = "cpu"
    attempt: int = 1
    workers: int = 1
    writers: int = 1

    @classmethod
    def of_job(cls, resources: Mapping[str, Any], threads: int = 1) -> "Machine":
        """Return the machine of a job: a GPU if it asked for one, by ``gpu`` or ``gres``, and a writer in each thread.

        The variable EMBEDOME_DEVICE says otherwise, for trying out a cluster without GPUs.
        """
        device = "cuda" if resources.get("gpu") or "gpu" in str(resources.get("gres", "")) else "cpu"
        if chosen := os.environ.get("EMBEDOME_DEVICE"):
            log.warning("EMBEDOME_DEVICE is set: running on %s, not on %s", chosen, device)
            device = chosen
        elif device == "cpu" and torch.cuda.is_available():
            log.warning("there is a GPU, but this job did not ask for one; see docs/cluster.md, One machine with a GPU")
        return cls(device, resources.get("attempt", 1), writers=threads)


@dataclass(frozen=True, slots=True)
class EmbedJob:
    """What the parts of a shard are embedded with.

    Parameters
    ----------
    model : str
        Model directory.
    settings : EmbedSettings
    machine : Machine
    clock : Clock
    """

    model: str
    settings: EmbedSettings
    machine: Machine
    clock: Clock

    def engine(self, part: Part, settings: EmbedSettings | None = None) -> Engine:
        """Return the engine, which is loaded where it is needed for the first time."""
        identity = json_sha256(part.provenance["model"])
        return load_engine(self.model, identity, settings or self.settings, self.machine)


@dataclass(frozen=True, slots=True)
class LaidOutPart:
    """A part whose sequences are laid out."""

    part: Part
    layout: BatchLayout | None
    """None where the part is written already."""


@dataclass(frozen=True, slots=True)
class RunningPart:
    """A part that the device is through with, or will be soon."""

    part: Part
    running: Running | None
    """None where the part is written already."""


@dataclass(frozen=True, slots=True)
class FinishedPart:
    """A part whose vectors are in the host's memory, or on disk."""

    part: Part
    outcome: dict[str, Any] | Embedded
    """Its manifest entry; or what is not written yet, as some vectors must be recomputed."""


def embed_parts(parts: Iterable[Part], job: EmbedJob) -> Iterator[dict[str, Any]]:
    """Embed parts, here or in processes; yield their manifest entries in order, few parts in memory at a time."""
    workers = job.machine.workers
    if workers == 1:
        yield from embed_in_threads(parts, job)
        return
    task = partial(embed_part, model=job.model, settings=job.settings, machine=replace(job.machine, workers=1))
    with process_pool(workers, __name__) as pool:
        yield from map_in_order(pool, task, job.clock.items(READING, parts), workers + 1)


def embed_in_threads(parts: Iterable[Part], job: EmbedJob) -> Iterator[dict[str, Any]]:
    """Embed parts one after the other: one is laid out ahead, one run, and each writer fetches and writes one.

    Recomputing is this thread's work, which a signal interrupts. Vectors of one part more than there are writers are
    in memory.
    """
    writers = job.machine.writers if job.settings.per_residue else 1
    with threads(1) as reader, threads(writers) as pool:
        laid_out = look_ahead(reader, job.clock.items(READING, (lay_out_part(part, job) for part in parts)))
        running = (run_part(each, job) for each in laid_out)
        for finished in map_in_order(pool, partial(finish_part, job=job), running, writers + 1):
            yield complete_part(finished, job)


def embed_part(part: Part, model: str, settings: EmbedSettings, machine: Machine) -> dict[str, Any]:
    """Embed and write one part, in a process of its own; return its manifest entry."""
    job = EmbedJob(model, settings, machine, Clock())
    return complete_part(finish_part(run_part(lay_out_part(part, job), job), job), job)


def lay_out_part(part: Part, job: EmbedJob) -> LaidOutPart:
    """Lay a part's sequences out, unless it is written already."""
    if is_written(part):
        log.info("%s is written already", part.path.name)
        count_work(part.residues)
        return LaidOutPart(part, None)
    model = load_empty_model(job.model, json_sha256(part.provenance["model"]), job.settings)
    policy = job.settings.policy
    with room_for_part(part):
        return LaidOutPart(
            part, lay_out(join_records(part.records), model.tokenizer, policy, policy.longest(model.max_residues))
        )


def join_records(records: Sequence[Record]) -> Sequences:
    """Join what a model reads of records: all of them have structure states, or none."""
    states = [record.structure for record in records if record.structure is not None]
    return Sequences.join([record.sequence for record in records], states or None)


def run_part(laid_out: LaidOutPart, job: EmbedJob) -> RunningPart:
    """Run a part. Batches that do not fit are made smaller; what all have in common must fit."""
    part = laid_out.part
    if laid_out.layout is None:
        return RunningPart(part, None)
    with room_for("the model", LARGER_DEVICE):
        engine = job.engine(part)
    with job.clock.time(DEVICE), room_for_part(part):
        work = PartWork(part.residues)
        running = RunningPart(part, engine.run(laid_out.layout, work.reach))
    # Of sequences that are left out, too.
    work.reach(1.0)
    return running


def finish_part(running: RunningPart, job: EmbedJob) -> FinishedPart:
    """Fetch a part's vectors and write it; if some of them must be recomputed, leave that to `complete_part`."""
    part = running.part
    if running.running is None:
        return FinishedPart(part, write_once(part, None, job.clock))
    with job.clock.time(DEVICE), room_for_part(part):
        embedded = job.engine(part).finish(running.running)
    job.clock.count(int(embedded.used[~embedded.skipped].sum()), embedded.operations)
    if job.settings.dtype != "float32" and (embedded.state == NON_FINITE).any():
        return FinishedPart(part, embedded)
    return FinishedPart(part, write_once(part, EmbeddedPart(embedded, []), job.clock))


def complete_part(finished: FinishedPart, job: EmbedJob) -> dict[str, Any]:
    """Recompute the vectors that must be, and write the part, if it is not written; return its manifest entry."""
    part, outcome = finished.part, finished.outcome
    return write_once(part, recompute(part, outcome, job), job.clock) if isinstance(outcome, Embedded) else outcome


def recompute(part: Part, embedded: Embedded, job: EmbedJob) -> EmbeddedPart:
    """Embed in float32 what came out not finite in a narrower type."""
    broken = np.flatnonzero(embedded.state == NON_FINITE)
    log.warning("%d vectors are not finite in %s and are computed in float32", len(broken), job.settings.dtype)
    with room_for("the model in float32, beside the one in use,", LARGER_DEVICE):
        engine = job.engine(part, replace(job.settings, dtype="float32"))
    chosen = [part.records[index] for index in broken]
    with job.clock.time(DEVICE), room_for_part(part):
        again = engine.embed(join_records(chosen))
    for name, vectors in embedded.vectors.items():
        vectors[broken] = again.vectors[name]
    embedded.state[broken], embedded.skipped[broken] = again.state, again.skipped
    if embedded.residues is not None and again.residues is not None:
        for index, states in zip(broken, again.residues, strict=True):
            embedded.residues[index] = states
    recomputed = [record.id for record, lost in zip(chosen, again.skipped, strict=True) if not lost]
    return EmbeddedPart(embedded, recomputed)


def write_once(part: Part, result: EmbeddedPart | None, clock: Clock) -> dict[str, Any]:
    """Write a part, unless it is written already, and return its manifest entry."""
    with clock.time(WRITING):
        if result:
            write(part, result)
        return part_entry(part)


def room_for_part(part: Part) -> AbstractContextManager[None]:
    """Say so if memory runs out for a part in the block."""
    return room_for(f"{part.path.name} with its {len(part.records):,} sequences", SMALLER_PARTS)


@cache
def load_empty_model(model: str, identity: str, settings: EmbedSettings) -> Model:
    """Load what sequences are laid out by, which needs no weights: the model's vocabulary and positions."""
    return empty_model(model, settings.features, structure=settings.structure)


@cache
def load_engine(model: str, identity: str, settings: EmbedSettings, machine: Machine) -> Engine:
    """Load the model once per process, and again where the directory's `identity` has changed.

    The garbage collector then leaves alone what is loaded: each part's records would have it look through all of that
    for cycles several times over, for a sixth of the time beside the model.
    """
    engine = build_engine(model, settings, machine)
    gc.freeze()
    return engine


def build_engine(model: str, settings: EmbedSettings, machine: Machine) -> Engine:
    """Build an engine with the settings."""
    return Engine(
        load_model(model, settings.features, structure=settings.structure),
        device=machine.device,
        dtype=settings.dtype,
        policy=settings.policy,
        layer=settings.layers,
        poolings=settings.pooling,
        per_residue=settings.per_residue,
        fused=settings.fused,
        attempt=machine.attempt,
    )
