"""k nearest neighbours with FAISS, as `embedome annotate` finds them, beside scikit-learn's brute force, in one run.

Random vectors around random centres, as families are, in float16 as they are stored. Both sides get the same float32
matrices and all cores; recall is the share of scikit-learn's k neighbours that the index finds. FAISS runs exactly, and
in an inverted file, whose building is timed too. Run with

    PYTHONPATH=scripts python benchmarks/neighbours.py [--rows N] [--queries N] [--dimension D] [--neighbours K]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from embedome.annotation.build_reference import iter_blocks
from embedome.dataset.to_faiss import build_index, faiss_threads, prepare_batches
from sklearn.neighbors import NearestNeighbors

MEMBERS = 50


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="vectors to search in")
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--neighbours", type=int, default=5)
    parser.add_argument("--metric", choices=["l2", "cosine"], default="l2")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    vectors, queries = make_vectors(options.rows, options.queries, options.dimension)
    print(
        f"{options.queries:,} queries, {options.rows:,} x {options.dimension}, k {options.neighbours}, {options.metric}"
    )
    sides = {"scikit-learn": brute_force(vectors, options)}
    for name, exact_up_to in (("FAISS, exact", options.rows), ("FAISS, inverted file", 0)):
        begin = time.perf_counter()
        sides[name] = faiss_search(vectors, exact_up_to, options)
        print(f"{name:22} built in {time.perf_counter() - begin:8.1f} s")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found = {}
    for _ in range(options.rounds):
        for name, side in sides.items():
            begin = time.perf_counter()
            found[name] = side(queries)
            seconds[name].append(time.perf_counter() - begin)
    truth = found["scikit-learn"]
    for name, each in seconds.items():
        ratio = statistics.median(one / own for one, own in zip(seconds["scikit-learn"], each, strict=True))
        recall = np.mean([len(np.intersect1d(a, b)) for a, b in zip(found[name], truth, strict=True)]) / truth.shape[1]
        print(f"{name:22} {statistics.median(each):8.1f} s  {ratio:8.2f}x  recall {recall:.4f}")


def make_vectors(rows: int, queries: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Float16 vectors [rows, D] and [queries, D] of the same families of some 50 rows each."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(max(1, rows // MEMBERS), dimension)).astype(np.float32)
    found = []
    for count in (rows, queries):
        vectors = np.empty((count, dimension), np.float16)
        for start in range(0, count, 1 << 14):
            block = vectors[start : start + (1 << 14)]
            block[:] = centres[random.integers(len(centres), size=len(block))]
            block += random.normal(0, 0.7, block.shape).astype(np.float16)
        found.append(vectors)
    return found[0], found[1]


def brute_force(vectors: np.ndarray, options: argparse.Namespace) -> Callable[[np.ndarray], np.ndarray]:
    """scikit-learn's search; row numbers [n, k]."""
    metric = {"l2": "euclidean"}.get(options.metric, options.metric)
    finder = NearestNeighbors(
        n_neighbors=options.neighbours, algorithm="brute", metric=metric, n_jobs=options.threads
    ).fit(vectors.astype(np.float32))
    return lambda queries: finder.kneighbors(queries.astype(np.float32), return_distance=False)


def faiss_search(
    vectors: np.ndarray, exact_up_to: int, options: argparse.Namespace
) -> Callable[[np.ndarray], np.ndarray]:
    """An index's search; row numbers [n, k]."""
    index = build_index(
        partial(iter_blocks, vectors),
        vectors.shape[1],
        len(vectors),
        metric=options.metric,
        exact_up_to=exact_up_to,
        threads=options.threads,
    )

    def search(queries: np.ndarray) -> np.ndarray:
        with faiss_threads(options.threads):
            return index.search(next(prepare_batches([queries], options.metric)), options.neighbours)[1]

    return search


if __name__ == "__main__":
    main()
