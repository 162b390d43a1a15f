"""How fast a device is: at a large matrix product, and at embedding with a model."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from embedome.embedding.cost import CostModel, longest_costed
from embedome.embedding.length_histogram import Lengths
from embedome.engine.engine import Engine
from embedome.engine.windows import Sequences
from embedome.models.tokenizer import STANDARD

# Side of the matrices, as large as the products of a batch; and how long to multiply them.
GEMM_SIDE = {"cpu": 1024, "cuda": 8192}
GEMM_SECONDS = 0.3
# Lengths at which the cost is measured, as far as the model takes them at once.
LENGTHS = (32, 64, 128, 192, 256, 384, 510, 768, 1022)
RESIDUES = np.frombuffer(STANDARD.encode(), np.uint8)


def gemm_peak(device: torch.device, dtype: torch.dtype, seconds: float = GEMM_SECONDS) -> float:
    """Measure floating-point operations per second of a large matrix product: the best of those made in `seconds`."""
    side = GEMM_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or best == float("inf"):
        begin = time.perf_counter()
        torch.matmul(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best


@dataclass(frozen=True, slots=True)
class Measured:
    """One timing of the engine.

    Parameters
    ----------
    sequences, residues, operations : int
        What was embedded; floating-point operations.
    seconds : float
        On the device, results back in the host's memory.
    """

    sequences: int
    residues: int
    operations: int
    seconds: float


def measure(engine: Engine, lengths: np.ndarray, rng: np.random.Generator) -> Measured:
    """Time the engine on random sequences of the lengths."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sequences = Sequences(rng.choice(RESIDUES, offsets[-1]), offsets)
    begin = time.perf_counter()
    embedded = engine.embed(sequences)
    return Measured(len(lengths), int(offsets[-1]), embedded.operations, time.perf_counter() - begin)


def bench(engine: Engine, lengths: Lengths, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Measure the peak of the device, the cost of a sequence by its length, and the speed on a distribution of lengths.

    Parameters
    ----------
    engine : Engine
    lengths : Lengths
    seconds : float
        About how long to measure.
    seed : int
        Of the random sequences.

    Returns
    -------
    dict
        ``gemm_peak_flop_per_second``; ``by_length``: for each of `LENGTHS` seconds per sequence, residues per second,
        share of the peak; ``distribution``: the same over lengths drawn from `lengths`; ``cost``: the fitted model.
    """
    rng = np.random.default_rng(seed)
    peak = gemm_peak(engine.device, engine.dtype, max(GEMM_SECONDS, seconds / 20))
    known = [length for length in LENGTHS if length <= engine.max_residues] or [engine.max_residues]
    share = seconds / 2 / len(known)
    by_length = {length: measure_for(engine, np.array([length]), share, rng) for length in known}
    drawn = measure_for(engine, np.minimum(lengths.sample(rng, 4096), engine.max_residues), seconds / 2, rng)
    cost = fit_cost({length: total.seconds / total.sequences for length, total in by_length.items()})
    return {
        "gemm_peak_flop_per_second": peak,
        "by_length": {length: rates(total, peak) for length, total in by_length.items()},
        "distribution": rates(drawn, peak),
        # What the model takes, not the longest of these sequences: others are costed by it.
        "cost": {**asdict(cost), "longest": longest_costed(engine.policy, engine.max_residues)},
    }


def measure_for(engine: Engine, lengths: np.ndarray, seconds: float, rng: np.random.Generator) -> Measured:
    """Embed sequences, lengths in turn, in growing amounts until the time is up; what counts is the last amount."""
    amount = 1
    found = measure(engine, np.resize(lengths, amount), rng)
    deadline = time.perf_counter() + seconds
    while True:
        # Twice as many, or as many as fill the time that is left.
        left = deadline - time.perf_counter()
        following = min(2 * amount, int(amount * left / max(found.seconds, 1e-9)))
        if following <= amount:
            return found
        amount = following
        found = measure(engine, np.resize(lengths, amount), rng)


def fit_cost(seconds: dict[int, float]) -> CostModel:
    """Fit ``linear * L + quadratic * L**2`` to seconds per sequence by length, by least squares of relative errors.

    Neither coefficient is negative; where noise would make one so, the other is fitted alone.
    """
    lengths, times = np.array(list(seconds)), np.array(list(seconds.values()))
    terms = np.stack([lengths, lengths**2], 1) / times[:, None]
    (linear, quadratic), *_ = np.linalg.lstsq(terms, np.ones(len(times)), rcond=None)
    if linear <= 0:
        linear, quadratic = 0.0, fit_alone(terms[:, 1])
    if quadratic < 0:
        linear, quadratic = fit_alone(terms[:, 0]), 0.0
    return CostModel(float(linear), float(quadratic))


def fit_alone(term: np.ndarray) -> float:
    """Return the coefficient of a single term that comes closest to 1."""
    return float(term.sum() / (term**2).sum())


def rates(total: Measured, peak: float) -> dict[str, float]:
    """Return the rates of a timing, per second."""
    return {
        "sequences": total.sequences,
        "seconds_per_sequence": total.seconds / total.sequences,
        "residues_per_second": total.residues / total.seconds,
        "flop_per_second": total.operations / total.seconds,
        "fraction_of_gemm_peak": total.operations / total.seconds / peak,
    }
