"""One shard file embedded to part files and timed: here, or in a process of its own with other cores or another GPU."""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from embedome.embedding.cost import CostModel
from embedome.embedding.embed import embed_records, shard_records
from embedome.embedding.metrics import Clock
from embedome.embedding.part_pipeline import Machine
from embedome.embedding.settings import EmbedSettings, PartLimits
from embedome.models.directory import model_identity

HERE = Path(__file__).parent.parent
# A model is read for its digest once: in a job that takes seconds of minutes.
IDENTITY = cache(model_identity)
# What is timed comes after this many sequences, which load the model and the device's kernels.
WARM = 256


def write_fasta(path: Path, sequences: Sequence[bytes]) -> Path:
    """Write sequences as a shard file has them."""
    path.write_bytes(b"".join(b">P%08d\n%s\n" % each for each in enumerate(sequences)))
    return path


def embed_file(model: Path, fasta: Path, device: str, settings: EmbedSettings) -> dict[str, Any]:
    """Embed a shard file; residues, operations and seconds, in all and by stage. They overlap."""
    with (
        tempfile.TemporaryDirectory(dir=fasta.parent) as out,
        mock.patch("embedome.embedding.embed.model_identity", IDENTITY),
    ):
        clock, begin = Clock(), time.perf_counter()
        embed_records(
            shard_records(fasta),
            model,
            Path(out) / "all.json",
            settings=settings,
            limits=PartLimits(100_000, 1e9, CostModel(1e-9, 0.0)),
            source={},
            machine=Machine(device),
            clock=clock,
        )
        seconds = time.perf_counter() - begin
    by_stage = {f"seconds_{stage}": found for stage, found in clock.read().items() if stage != "total"}
    return {"residues": clock.residues, "operations": clock.operations, "seconds": seconds, **by_stage}


def embed_warm(
    model: Path, sequences: Sequence[bytes], folder: Path, device: str, settings: EmbedSettings
) -> dict[str, Any]:
    """As `embed_file`, once the model is loaded and the device is warm."""
    embed_file(model, write_fasta(folder / "warm.fasta", sequences[:WARM]), device, settings)
    return embed_file(model, write_fasta(folder / "all.fasta", sequences), device, settings)


def start(model: Path, fasta: Path, device: str, dtype: str, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    """Begin the same in a process of its own, which prints what `embed_file` gives."""
    task = json.dumps([str(model), str(fasta), device, dtype])
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "gpu_steps.one_file", task],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What a process that `start` began has printed.

    Raises
    ------
    RuntimeError
        Where it failed.
    """
    out, log = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the process ended with {process.returncode}: {log.strip().splitlines()[-1:]}")
    return json.loads(out.splitlines()[-1])


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Processes that are started in the block get a number of cores."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(own)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def main() -> None:
    """Embed the file that the first argument tells of."""
    model, fasta, device, dtype = json.loads(sys.argv[1])
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    settings = EmbedSettings(dtype=dtype)
    few = Path(fasta).read_bytes().split(b"\n", 2 * WARM)[: 2 * WARM]
    with tempfile.TemporaryDirectory() as folder:
        warm = Path(folder) / "warm.fasta"
        warm.write_bytes(b"\n".join(few) + b"\n")
        embed_file(Path(model), warm, device, settings)
    print(json.dumps(embed_file(Path(model), Path(fasta), device, settings)))


if __name__ == "__main__":
    main()
