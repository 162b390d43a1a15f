"""bfloat16 and 8-bit integers against float32 on one core, round by round: residues per second, and deviations.

ESM-1nv's full size, random weights, lengths as in UniRef50, cut at 510. Run with

    PYTHONPATH=scripts python benchmarks/cpu_dtypes.py [--sequences N] [--rounds N]
"""

import argparse
import tempfile
import time

import numpy as np
from embedome.engine.engine import Engine
from embedome.engine.windows import Sequences
from embedome.models.create import make_untrained
from embedome.models.directory import load_model
from made_inputs import random_sequences

EXACT = "float32"
DTYPES = (EXACT, "bfloat16", "int8")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    drawn = random_sequences(options.sequences)
    residues = sum(map(len, drawn))
    sequences = Sequences.join(drawn)
    with tempfile.TemporaryDirectory() as folder:
        make_untrained(folder, "esm1nv", "esm1nv", {}, 0)
        engines = {dtype: Engine(load_model(folder), dtype=dtype) for dtype in DTYPES}
    seconds: dict[str, list[float]] = {dtype: [] for dtype in engines}
    vectors = {}
    for _ in range(options.rounds):
        for dtype, engine in engines.items():
            begin = time.perf_counter()
            vectors[dtype] = engine.embed(sequences).vectors["mean"].astype(np.float64)
            seconds[dtype].append(time.perf_counter() - begin)
    for dtype, found in vectors.items():
        ratios = np.array(seconds[EXACT]) / seconds[dtype]
        cosine, difference = deviation(vectors[EXACT], found)
        print(
            f"{dtype:9} {residues / np.median(seconds[dtype]):8,.0f} residues/s, {np.median(ratios):.2f} "
            f"({ratios.min():.2f}-{ratios.max():.2f}) times as fast as {EXACT}; "
            f"smallest cosine {cosine:.5f}, largest difference {difference:.4f}"
        )


def deviation(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The smallest cosine of two sets of vectors [n, D], and the largest difference of two elements."""
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return cosine.min(), np.abs(one - other).max()


if __name__ == "__main__":
    main()
