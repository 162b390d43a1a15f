"""The engine's batches: whether the host waits, what runs on the device, and how large and how mixed they should be."""

import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embedome.engine.batch_layout import BatchLayout, Group
from embedome.engine.engine import Engine
from embedome.engine.tolerances import tolerance
from torch.autograd import DeviceType

from gpu_steps.bench import MODELS, NEEDS_GPU, Bench, Row, equal_lengths, layout_of
from gpu_steps.precision import smallest_cosine

# What a kernel's name, or on a CPU an operation's, tells of it; the first that is found counts.
KINDS = {
    "attention": r"flash|fmha|attention|sdpa|softmax",
    "matrix product": r"gemm|nvjet|cutlass|xmma|addmm|::mm\b|::bmm\b|matmul|linear",
    "norm": r"norm",
    "copy": r"memcpy|memset",
}
KERNELS = 12
# Sequences of the parts by model: how many are embedded with one length a batch, and with several.
PARTS = {"esm1nv": (1500, 5000, 35000), "esm2-650m": (1500, 3000), "ankh2-ext2": (1500,)}
ONE, SEVERAL, OWN = "one length a batch", "several lengths a batch", "as the engine does it"


def syncs(bench: Bench) -> Iterator[Row]:
    """How often the host waits for the device while a part is run, and in which line."""
    if not bench.on_gpu:
        yield NEEDS_GPU
        return
    for name in MODELS:
        engine = bench.engine(name)
        layout = layout_of(engine, bench.part(name, 2000))
        for per_residue in (False, True):
            engine.per_residue = per_residue
            try:
                with counted_batches(engine) as batches:  # what is made once is there then
                    engine.finish(engine.run(layout))
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    torch.cuda.set_sync_debug_mode("warn")
                    running = engine.run(layout)
                    torch.cuda.set_sync_debug_mode("default")
                engine.finish(running)
            finally:
                torch.cuda.set_sync_debug_mode("default")
                engine.per_residue = False
            lines = [
                f"{Path(each.filename).name}:{each.lineno}" for each in caught if "synchroniz" in str(each.message)
            ]
            what = f"{name}, vectors of {'residues' if per_residue else 'sequences'}"
            yield {"what": what, "batches": len(batches), "syncs": len(lines), "where": Counter(lines)}


@contextmanager
def counted_batches(engine: Engine) -> Iterator[list[int]]:
    """Groups of each batch that an engine runs in the block."""
    found: list[int] = []
    run = engine.run_batch

    def counted(groups: Sequence[Group], *others: Any) -> Any:
        found.append(len(groups))
        return run(groups, *others)

    engine.run_batch = counted
    try:
        yield found
    finally:
        del engine.run_batch


def profile(bench: Bench) -> Iterator[Row]:
    """Kernels of one full batch: their time beside that of the batch, shares by kind, and the longest."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    for name in MODELS:
        engine = bench.engine(name)
        layout = layout_of(engine, equal_lengths(engine, bench.size(engine.token_budget, 64), bench.size(256, 16)))
        embed = partial(embed_layout, engine, layout)
        embed()
        seconds = bench.seconds(embed)
        with torch.profiler.profile(activities=activities) as found:
            embed()
            bench.wait()
        kernels = sorted(kernel_times(found, bench.on_gpu), reverse=True)
        if not kernels:
            yield {"what": name, "not_there": "the profiler recorded no kernel"}
            continue
        total = sum(each for each, _, _ in kernels)
        kinds: Counter[str] = Counter()
        for each, _, kernel in kernels:
            kinds[find_kind(kernel)] += each / total
        yield {
            "what": f"{name}, one batch of {int(layout.token_ends[-1]):,} tokens",
            "ms": 1e3 * seconds,
            "ms_of_kernels": 1e3 * total,
            "kernels": sum(count for _, count, _ in kernels),
            **{f"share_{kind.replace(' ', '_')}": share for kind, share in kinds.items()},
        }
        for each, count, kernel in kernels[:KERNELS]:
            yield {"what": f"{name}, {kernel[:160]}", "ms": 1e3 * each, "count": count, "share": each / total}


def embed_layout(engine: Engine, layout: BatchLayout) -> dict[str, np.ndarray]:
    """Run a layout and fetch the vectors by pooling."""
    return engine.finish(engine.run(layout)).vectors


def kernel_times(found: torch.profiler.profile, on_gpu: bool) -> Iterator[tuple[float, int, str]]:
    """Seconds, count and name of each kernel; on a CPU of each operation."""
    for each in found.key_averages():
        if not on_gpu:
            yield 1e-6 * each.self_cpu_time_total, each.count, each.key
        elif each.device_type == DeviceType.CUDA:
            yield 1e-6 * each.self_device_time_total, each.count, each.key


def find_kind(kernel: str) -> str:
    """What a kernel is for."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel, re.IGNORECASE)), "elementwise")


def mixed(bench: Bench) -> Iterator[Row]:
    """Parts of several sizes, their batches of one length each, of several, and as the engine does it by itself."""
    for name, counts in PARTS.items():
        engine = bench.engine(name)
        bound = tolerance(bench.dtype, engine.encoder.n_layers).cosine
        for count in counts:
            sequences = bench.part(name, bench.size(count, 30))
            layout = layout_of(engine, sequences)
            embed_layout(engine, layout_of(engine, sequences[:200]))
            exact = None
            for way in (ONE, SEVERAL, OWN):
                with lengths_in_batches(engine, way), counted_batches(engine) as batches:
                    begin = time.perf_counter()
                    vectors = embed_layout(engine, layout)["mean"]
                    seconds = time.perf_counter() - begin
                exact = vectors if exact is None else exact
                row: Row = {
                    "what": f"{name}, part of {len(sequences):,}, {way}",
                    "residues_per_second": int(layout.used.sum()) / seconds,
                    "mean_tokens": float(layout.token_ends[-1]) / len(batches),
                    "groups_a_batch": sum(batches) / len(batches),
                    "cosine": smallest_cosine(exact, vectors),
                }
                if not row["cosine"] >= bound:
                    row["broken"] = f"{row['what']}: vectors are others"
                yield row


@contextmanager
def lengths_in_batches(engine: Engine, way: str) -> Iterator[None]:
    """Have an engine cut its batches at each length, or at none, whatever its own rule is."""

    def batch_end(layout: BatchLayout, begin: int, budget: int) -> int:
        room = layout.token_ends[begin] - layout.tokens_between(begin, begin + 1) + budget
        end = max(begin + 1, int(np.searchsorted(layout.token_ends, room, side="right")))
        if way == SEVERAL:
            return end
        return min(end, int(layout.cuts[np.searchsorted(layout.cuts, begin, side="right")]))

    if way != OWN:
        engine.batch_end = batch_end
    try:
        yield
    finally:
        engine.__dict__.pop("batch_end", None)


def budgets(bench: Bench) -> Iterator[Row]:
    """A full part of ESM-1nv by token budget, and with cuDNN's attention allowed."""
    engine = bench.engine("esm1nv")
    layout = layout_of(engine, bench.part("esm1nv", bench.size(35_000, 30)))
    residues, own = int(layout.used.sum()), engine.token_budget
    try:
        for budget in (own // 4, own // 2, own, 2 * own):
            engine.token_budget = budget
            rate = residues / bench.seconds(partial(embed_layout, engine, layout))
            yield {"what": f"budget of {budget:,} tokens", "residues_per_second": rate}
        engine.token_budget = own
        torch.backends.cuda.enable_cudnn_sdp(True)
        rate = residues / bench.seconds(partial(embed_layout, engine, layout))
        yield {"what": "cuDNN's attention allowed", "residues_per_second": rate}
    finally:
        engine.token_budget = own
        torch.backends.cuda.enable_cudnn_sdp(False)
