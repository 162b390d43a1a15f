"""How many of the true nearest neighbours an index finds."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from embedome.annotation.hits import HitFinder, Queries, row_numbers
from embedome.annotation.reference_set import EUCLIDEAN, ReferenceSet
from embedome.dataset.dataset import Dataset
from embedome.parquet.reader import ParquetFile
from embedome.parquet.vectors import vector_matrix

QUERIES = 1000
SEED = 0
BLOCK_ROWS = 4096
# Distances computed in two ways agree better than this, small ones among long vectors too.
TOLERANCE = 1e-6


def measure_recall(data: Dataset, reference: ReferenceSet, threads: int = 1) -> dict[str, Any]:
    """Compare the hits of random rows of a data set with those of an exact search that does not use FAISS.

    Returns
    -------
    dict
        ``recall``: of the k nearest annotated proteins, the fraction that is found, mean over the queries; how many
        queries, and the seed of their choice.
    """
    queries = sample_queries(data, data.column(reference.settings.pooling), QUERIES, SEED)
    settings = replace(reference.settings, skip_identical=False, max_identity=None)
    hits = HitFinder(reference, settings, threads).find(queries)
    own = row_numbers(queries.ids, reference.ids)
    distances = nearest_distances(queries.vectors, reference.vectors, own, settings.neighbours, settings.metric)
    there = np.isfinite(distances).sum(1)
    farthest = np.max(distances, axis=1, where=np.isfinite(distances), initial=0)
    found = np.bincount(
        hits.query[hits.distance <= farthest[hits.query] * (1 + TOLERANCE) + TOLERANCE], minlength=len(queries)
    )
    asked = there > 0
    recall = np.minimum(found, there)[asked] / there[asked]
    return {"recall": round(float(recall.mean()), 6) if asked.any() else 1.0, "queries": len(queries), "seed": SEED}


def sample_queries(data: Dataset, column: str, wanted: int, seed: int) -> Queries:
    """Draw rows of a data set with the vectors in a column, all equally likely; all where it has fewer."""
    chosen = np.sort(np.random.default_rng(seed).choice(len(data), min(wanted, len(data)), replace=False))
    tables, start = [], 0
    for entry in data.files():
        mine = chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, start + entry["rows"])] - start
        start += entry["rows"]
        if not len(mine):
            continue
        file, first = ParquetFile(data.folder / entry["file"]), 0
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            here = mine[(mine >= first) & (mine < end)] - first
            if len(here):
                rows = file.read_row_group(group, ["id", "digest", column], use_threads=False)
                tables.append(rows.take(pa.array(here)))
            first = end
    rows = pa.concat_tables(tables).combine_chunks()
    return Queries(rows["id"].combine_chunks(), rows["digest"].combine_chunks(), vector_matrix(rows[column]))


def nearest_distances(queries: np.ndarray, vectors: np.ndarray, own: np.ndarray, k: int, metric: str) -> np.ndarray:
    """Find the k smallest distances of each query, by comparing it with every vector in double precision.

    Parameters
    ----------
    queries, vectors : numpy.ndarray, shape=(m, D), (n, D)
    own : numpy.ndarray, shape=(m,)
        The vector that is the query's own, which does not count; negative where there is none.
    k : int
    metric : str

    Returns
    -------
    numpy.ndarray, dtype=float64, shape=(m, k)
        In no order; infinite where there are fewer.
    """
    queries = scale_vectors(queries, metric)
    best = np.full((len(queries), k), np.inf)
    norms = np.square(queries).sum(1)[:, None]
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = scale_vectors(vectors[start : start + BLOCK_ROWS], metric)
        found = queries @ block.T
        if metric == EUCLIDEAN:
            found = np.sqrt(np.maximum(norms - 2 * found + np.square(block).sum(1), 0))
        else:
            found = 1 - found
        mine = np.flatnonzero((own >= start) & (own < start + len(block)))
        found[mine, own[mine] - start] = np.inf
        best = np.partition(np.concatenate([best, found], axis=1), k - 1, axis=1)[:, :k]
    return best


def scale_vectors(vectors: np.ndarray, metric: str) -> np.ndarray:
    """Return vectors in double precision, for cosine of length 1."""
    vectors = vectors.astype(np.float64)
    if metric == EUCLIDEAN:
        return vectors
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=vectors, where=norms > 0)
