"""What a shard cost: seconds by stage, residues and operations per second, memory."""

import json
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from embedome.common.atomic_files import atomic_path
from embedome.common.process import peak_memory

if TYPE_CHECKING:
    from embedome.engine.engine import Engine

READING, DEVICE, WRITING = "reading", "device", "writing"
Item = TypeVar("Item")


class Clock:
    """Seconds spent in each stage, in threads at the same time; and what was done on the device.

    Where threads are in one stage together, the time counts once.
    """

    def __init__(self) -> None:
        self.residues = self.operations = 0
        self.started = time.perf_counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.inside: Counter[str] = Counter()
        self.entered: dict[str, float] = {}
        self.lock = threading.Lock()

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Count the block's time towards a stage."""
        with self.lock:
            if not self.inside[stage]:
                self.entered[stage] = time.perf_counter()
            self.inside[stage] += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside[stage] -= 1
                if not self.inside[stage]:
                    self.seconds[stage] += time.perf_counter() - self.entered[stage]

    def count(self, residues: int, operations: int) -> None:
        """Add what was done on the device for a part."""
        with self.lock:
            self.residues += residues
            self.operations += operations

    def items(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items on, counting the time it takes to get them."""
        iterator = iter(items)
        while True:
            with self.time(stage):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def read(self) -> dict[str, float]:
        """Return seconds by stage, and in total so far."""
        total = time.perf_counter() - self.started
        return {stage: round(self.seconds[stage], 4) for stage in (READING, DEVICE, WRITING)} | {
            "total": round(total, 4)
        }


def write_metrics(path: str | os.PathLike, manifest: dict[str, Any], clock: Clock, engine: "Engine | None") -> None:
    """Write a shard's row of metrics, one line of JSON.

    Parameters
    ----------
    path : path
    manifest : dict
        The shard's.
    clock : Clock
    engine : Engine, optional
        What embedded it; None where all parts were written already, and nothing was run.
    """
    row: dict[str, Any] = {key: manifest[key] for key in ("shard", "sequences", "residues")}
    row |= {"parts": len(manifest["parts"]), "seconds": clock.read()}
    row["peak_memory_bytes"] = {"host": peak_memory()}
    if engine:
        row |= {"dtype": manifest["provenance"]["dtype"], **speed(engine, clock)}
    with atomic_path(path) as temporary:
        Path(temporary).write_text(json.dumps(row) + "\n", encoding="utf-8")


def speed(engine: "Engine", clock: Clock) -> dict[str, Any]:
    """Return rates over the seconds that an engine ran, and the device's peak at a large matrix product.

    For int8 the peak is that of float32, which the rest of the model computes in.
    """
    import torch

    from embedome.embedding.benchmark import gemm_peak

    seconds = clock.seconds[DEVICE]
    peak = None
    # It takes memory, and its failure must not cost a finished shard its manifest.
    with suppress(RuntimeError):
        peak = gemm_peak(engine.device, engine.dtype)
    rates = {
        "device": torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else "cpu",
        "token_budget": engine.token_budget,
        "residues_embedded": clock.residues,
        "residues_per_second": round(clock.residues / seconds, 1),
        "flop_per_second": round(clock.operations / seconds),
        "gemm_peak_flop_per_second": peak and round(peak),
        "fraction_of_gemm_peak": peak and round(clock.operations / seconds / peak, 4),
    }
    if engine.device.type == "cuda":
        rates["peak_device_memory_bytes"] = torch.cuda.max_memory_allocated(engine.device)
    return rates
