"""Nearest neighbours of vectors with FAISS: an index is built from a stream and returns row numbers, or ids."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedome.common.errors import UserError, load_optional

if TYPE_CHECKING:
    import faiss

METRICS = ("cosine", "inner-product", "l2")
# Rows up to which every vector is compared: 3 GB of vectors at D = 768.
EXACT_UP_TO = 1_000_000
# Lists of an inverted file per square root of its rows, and rows per list to learn them from: FAISS asks for 4 to 16
# lists ("Guidelines to choose an index" in its wiki) and warns below 39 rows.
LISTS, TRAIN_ROWS = 4, 64
# Lists that a query looks into.
PROBES = 64


def build_index(
    batches: Callable[[], Iterable[np.ndarray]],
    dimension: int,
    rows: int,
    *,
    metric: str = "cosine",
    exact_up_to: int = EXACT_UP_TO,
    seed: int = 0,
    threads: int = 1,
) -> "faiss.Index":
    """Index vectors as they stream by; a vector's number in the index is its row in the stream.

    Up to `exact_up_to` rows every vector is kept in float32 and a query is compared with all of them. Beyond, vectors
    are kept in float16 in an inverted file of ``4 √rows`` lists, learnt by k-means from 64 random rows per
    list, and a query is compared with those in the 64 lists nearest to it: the index is half the size, and
    some neighbours are missed.

    Parameters
    ----------
    batches : callable
        Starts the stream: arrays [n, D] of any float type, `rows` rows together. Called twice for an inverted file.
    dimension : int
        D.
    rows : int
    metric : {"cosine", "inner-product", "l2"}
        For cosine, vectors are scaled to length 1 here, and queries must be (`unit`); ``l2`` returns squared distances.
    exact_up_to : int
    seed : int
        Of the choice of rows to learn from, and of k-means. One seed makes one index, whatever the threads.
    threads : int

    Returns
    -------
    faiss.Index
        Of inner products or of L2; it takes the memory of its vectors.

    Raises
    ------
    UserError
        Where the metric is unknown.
    """
    if metric not in METRICS:
        raise UserError(f"no metric {metric!r}; expected one of {', '.join(METRICS)}")
    with faiss_threads(threads):
        index = empty_index(dimension, rows, metric, exact_up_to, seed)
        if not index.is_trained:
            index.train(sample_rows(prepare_batches(batches(), metric), rows, count_lists(rows) * TRAIN_ROWS, seed))
        for vectors in prepare_batches(batches(), metric):
            index.add(vectors)
    if index.ntotal != rows:
        raise RuntimeError(f"the stream has {index.ntotal} rows; expected {rows}")
    return index


def empty_index(dimension: int, rows: int, metric: str, exact_up_to: int, seed: int) -> "faiss.Index":
    """Make the index for this many rows, still empty, and untrained where it is an inverted file."""
    faiss = load_faiss()

    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    flat = faiss.IndexFlat(dimension, kind)
    if rows <= exact_up_to:
        return flat
    lists = count_lists(rows)
    index = faiss.IndexIVFScalarQuantizer(flat, dimension, lists, faiss.ScalarQuantizer.QT_fp16, kind)
    index.nprobe = min(PROBES, lists)
    index.cp.seed = seed
    return index


def count_lists(rows: int) -> int:
    """Return the number of lists of an inverted file of `rows` rows."""
    return max(1, min(LISTS * math.isqrt(rows), rows // TRAIN_ROWS))


def sample_rows(batches: Iterable[np.ndarray], rows: int, wanted: int, seed: int) -> np.ndarray:
    """Draw `wanted` rows of a stream, all equally likely, in its order; all where it has fewer."""
    chosen = np.sort(np.random.default_rng(seed).choice(rows, min(wanted, rows), replace=False, shuffle=False))
    found, start = [], 0
    for vectors in batches:
        first, last = np.searchsorted(chosen, [start, start + len(vectors)])
        found.append(vectors[chosen[first:last] - start])
        start += len(vectors)
    return np.concatenate(found)


def prepare_batches(batches: Iterable[np.ndarray], metric: str) -> Iterator[np.ndarray]:
    """Yield vectors as FAISS takes them: float32, C order, of length 1 for cosine."""
    for vectors in batches:
        yield unit(vectors) if metric == "cosine" else np.ascontiguousarray(vectors, np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors [n, D] to length 1, in float32; one of zeros stays as it is."""
    vectors = np.array(vectors, np.float32, order="C")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=vectors, where=norms > 0)


def load_faiss() -> ModuleType:
    """Import FAISS, without the lines that its loader logs of builds for other processors.

    Raises
    ------
    UserError
        Where it is not installed.
    """
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    return load_optional("faiss", "faiss-cpu")


@contextmanager
def faiss_threads(threads: int) -> Iterator[None]:
    """Let FAISS use this many threads, and afterwards as many as before."""
    faiss = load_faiss()

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """A FAISS index that answers with ids."""

    index: "faiss.Index"
    ids: pa.Array
    """The id of each row of the index, as Arrow strings."""
    metric: str

    def search(self, vectors: np.ndarray, k: int, threads: int = 1) -> tuple[np.ndarray, list[list[str | None]]]:
        """Find the nearest rows of some vectors.

        Parameters
        ----------
        vectors : numpy.ndarray, shape=(n, D)
            Of any float type and length.
        k : int
            Neighbours of each.
        threads : int

        Returns
        -------
        scores : numpy.ndarray, dtype=float32, shape=(n, k)
            Cosines or inner products, largest first; for ``l2`` squared distances, smallest first.
        ids : list of n lists of k str
            None where fewer than k were found.

        Raises
        ------
        UserError
            Where the queries are not of the index's dimension, or k is below 1.
        """
        asked = np.atleast_2d(vectors)
        if asked.ndim > 2 or asked.shape[1] != self.index.d:
            shape = np.shape(vectors)
            raise UserError(
                f"queries have the shape {shape}; expected (n, {self.index.d}), as the indexed vectors have"
            )
        if k < 1:
            raise UserError(f"{k} neighbours of each; expected 1 or more")
        queries = next(prepare_batches([asked], self.metric))
        with faiss_threads(threads):
            scores, rows = self.index.search(queries, k)
        names = self.names(rows.ravel())
        return scores, [names[start : start + k] for start in range(0, len(names), k)]

    def names(self, rows: Sequence[int] | np.ndarray) -> list[str | None]:
        """Return the ids of rows of the index; None for -1, which FAISS returns where it found too few."""
        rows = np.asarray(rows)
        return self.ids.take(pa.array(rows, pa.int64(), mask=rows < 0)).to_pylist()


def index_with_ids(
    batches: Callable[[], Iterable[np.ndarray]], ids: Iterable[pa.Array], dimension: int, **options: Any
) -> Neighbours:
    """Index vectors as they stream by, with the ids of their rows; the rest as for `build_index`."""
    chunks = list(ids)
    index = build_index(batches, dimension, sum(map(len, chunks)), **options)
    # One array: of many chunks the right one would be looked for at each look-up.
    names = pa.chunked_array(chunks, pa.string()).cast(pa.large_string()).combine_chunks()
    return Neighbours(index, names, options["metric"])
