"""Labels carried over from hits to queries, with a reliability, as goPredSim does."""

from dataclasses import dataclass

import numpy as np

from embedome.annotation.hits import Hits
from embedome.annotation.reference_set import EUCLIDEAN, ranges

# Of the reliability of a Euclidean distance.
HALF = 0.5


@dataclass(frozen=True, slots=True)
class Transferred:
    """Labels of queries, sorted by query and rank.

    Attributes
    ----------
    query, label : numpy.ndarray, dtype=int64, shape=(r,)
        Numbers of the query and of the label.
    reliability : numpy.ndarray, dtype=float64, shape=(r,)
    n_hits : numpy.ndarray, dtype=int64, shape=(r,)
        Hits that carry the label.
    nearest : numpy.ndarray, dtype=int64, shape=(r,)
        The nearest of them, as a position in the hits.
    rank : numpy.ndarray, dtype=int64, shape=(r,)
        From 1, by reliability, and among equals by label.
    below : int
        Labels that were below the smallest reliability.
    """

    query: np.ndarray
    label: np.ndarray
    reliability: np.ndarray
    n_hits: np.ndarray
    nearest: np.ndarray
    rank: np.ndarray
    below: int


def similarity(distance: np.ndarray, metric: str) -> np.ndarray:
    """Return the similarity of hits: ``0.5 / (0.5 + d)`` for Euclidean distances, ``1 - d`` for cosine distances."""
    return HALF / (HALF + distance) if metric == EUCLIDEAN else 1 - distance


def transfer_labels(
    hits: Hits, offsets: np.ndarray, codes: np.ndarray, metric: str, min_reliability: float
) -> Transferred:
    """Carry labels over.

    Parameters
    ----------
    hits : Hits
    offsets, codes : numpy.ndarray
        The labels of row i of the reference set are ``codes[offsets[i]:offsets[i + 1]]``, without repeats.
    metric : str
        Of the hits' distances.
    min_reliability : float
        Labels of a smaller one are dropped.

    Notes
    -----
    The reliability of a label is the sum of the similarities of the hits that carry it, over the number of all hits of
    the query: ``RI(p) = 1/k Σ s(q, n)``.

    References
    ----------
    Littmann, Heinzinger, Dallago, Olenyi & Rost 2021, Embeddings from deep learning transfer GO annotations beyond
    homology, Scientific Reports 11:1160, doi:10.1038/s41598-020-80786-0, and their program goPredSim.
    """
    starts, ends = offsets[hits.row], offsets[hits.row + 1]
    hit = np.repeat(np.arange(len(hits.row)), ends - starts)
    label = codes[ranges(starts, ends)].astype(np.int64)
    width = int(label.max(initial=0)) + 1
    # Hits come nearest first: the first of a pair is the nearest that carries the label.
    pairs, first, inverse = np.unique(hits.query[hit] * width + label, return_index=True, return_inverse=True)
    n_pairs = len(pairs)
    total = np.bincount(inverse, weights=similarity(hits.distance, metric)[hit], minlength=n_pairs)
    reliability = total / np.bincount(hits.query)[pairs // width]
    n_hits = np.bincount(inverse, minlength=n_pairs)
    enough = np.flatnonzero(reliability >= min_reliability)
    query, name = pairs[enough] // width, pairs[enough] % width
    order = np.lexsort((name, -reliability[enough], query))
    kept = enough[order]
    query = query[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query) + 1
    return Transferred(query, name[order], reliability[kept], n_hits[kept], hit[first[kept]], rank, n_pairs - len(kept))
