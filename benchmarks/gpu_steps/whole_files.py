"""From a FASTA file to part files: by model, by cores, with per-residue embeddings, and on several GPUs."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from embedome.embedding.part_pipeline import load_engine
from embedome.embedding.settings import EmbedSettings

from gpu_steps.bench import NEEDS_GPU, Bench, Row
from gpu_steps.one_file import embed_warm, on_cores, result, start, write_fasta

# Sequences by model.
COUNTS = {"esm1nv": 200_000, "esm2-650m": 40_000, "ankh2-ext2": 33_000}
CORES = (4, 1)


def rates(bench: Bench, what: str, found: Mapping[str, Any]) -> Row:
    """A row of what `embed_file` gave."""
    seconds = found["seconds"]
    return {
        "what": what,
        "residues_per_second": found["residues"] / seconds,
        "share_of_peak": found["operations"] / seconds / bench.peak,
        "share_of_peak_on_device": found["operations"] / found["seconds_device"] / bench.peak,
        **{key: value for key, value in found.items() if key.startswith("seconds")},
    }


def files(bench: Bench) -> Iterator[Row]:
    """Each model once. The peak that shares are of is that of a large product."""
    for name, full in COUNTS.items():
        sequences = bench.part(name, bench.size(full, 40))
        found = embed_warm(bench.model(name), sequences, bench.folder, bench.device.type, EmbedSettings(bench.dtype))
        yield rates(bench, f"{name}, {len(sequences):,} sequences", found)
        load_engine.cache_clear()


def cores(bench: Bench) -> Iterator[Row]:
    """The fastest model, whose host has most to do, on four cores and on one."""
    sequences = bench.part("esm1nv", bench.size(COUNTS["esm1nv"], 40))
    fasta = write_fasta(bench.folder / "all.fasta", sequences)
    for count in CORES:
        with on_cores(count):
            process = start(bench.model("esm1nv"), fasta, bench.device.type, bench.dtype, {})
        there = min(count, len(os.sched_getaffinity(0)))
        yield rates(bench, f"esm1nv, {len(sequences):,} sequences, cores: {there}", result(process))


def residues(bench: Bench) -> Iterator[Row]:
    """Per-residue embeddings written too."""
    sequences = bench.part("esm1nv", bench.size(4000, 40))
    settings = EmbedSettings(bench.dtype, per_residue=True)
    found = embed_warm(bench.model("esm1nv"), sequences, bench.folder, bench.device.type, settings)
    yield rates(bench, f"esm1nv, {len(sequences):,} sequences, per-residue embeddings", found)
    load_engine.cache_clear()


def devices(bench: Bench) -> Iterator[Row]:
    """A process on each GPU, all at once."""
    if not bench.on_gpu:
        yield NEEDS_GPU
        return
    count = torch.cuda.device_count()
    if count == 1:
        yield {"what": "there is one GPU only"}
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    sequences = bench.part("esm1nv", COUNTS["esm1nv"])
    fasta = write_fasta(bench.folder / "all.fasta", sequences)
    for used in (1, count):
        processes = [
            start(bench.model("esm1nv"), fasta, "cuda", bench.dtype, {"CUDA_VISIBLE_DEVICES": device})
            for device in visible[:used]
        ]
        found = [result(process) for process in processes]
        total = sum(each["residues"] / each["seconds"] for each in found)
        yield {"what": f"esm1nv on {used} GPUs at once", "residues_per_second": total}
