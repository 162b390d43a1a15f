"""8-bit integers against float32 on one core, round by round: residues per second, and how far the vectors are off.

ESM-1nv's full size, random weights, lengths as in UniRef50, cut at 510. Run with

    PYTHONPATH=scripts python benchmarks/int8.py [--sequences N] [--rounds N]
"""

import argparse
import statistics
import tempfile
import time

import numpy as np
from embedome.engine import Engine
from embedome.initialise import make_untrained
from embedome.models import load_model
from embedome.pieces import Sequences
from inputs import random_sequences


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
        engines = {dtype: Engine(load_model(folder), dtype=dtype) for dtype in ("float32", "int8")}
    seconds: dict[str, list[float]] = {dtype: [] for dtype in engines}
    vectors = {}
    for _ in range(options.rounds):
        for dtype, engine in engines.items():
            begin = time.perf_counter()
            vectors[dtype] = engine.embed(sequences).vectors["mean"].astype(np.float64)
            seconds[dtype].append(time.perf_counter() - begin)
    for dtype, each in seconds.items():
        print(f"{dtype:8} {residues / statistics.median(each):8,.0f} residues/s")
    ratios = [one / other for one, other in zip(seconds["float32"], seconds["int8"], strict=True)]
    print(f"int8 is {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) times as fast")
    one, other = vectors["float32"], vectors["int8"]
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    print(f"smallest cosine {cosine.min():.5f}, largest difference {np.abs(one - other).max():.4f}")


if __name__ == "__main__":
    main()
