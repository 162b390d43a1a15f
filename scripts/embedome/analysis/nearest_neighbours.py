"""Nearest vectors by cosine, exactly, and what they share.

Shapes: n vectors, D dimensions, k neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.neighbors import NearestNeighbors


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Divide vectors [n, D] by their norms, in double precision; float32, a zero vector stays."""
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    return (exact / np.where(norms > 0, norms, 1)).astype(np.float32)


def find_nearest(units: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k vectors of largest cosine to each vector, itself left out.

    All pairs are compared, by scikit-learn, which holds as many cosines at once as its working memory takes (1 GiB).

    Parameters
    ----------
    units : numpy.ndarray, dtype=float32, shape=(n, D)
        Of norm 1.
    k : int
        At most n - 1.

    Returns
    -------
    indices : numpy.ndarray, dtype=int64, shape=(n, k)
        Nearest first; in which order equal cosines are is left open.
    cosines : numpy.ndarray, dtype=float32, shape=(n, k)
        To about 1e-7; at most 1.
    """
    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(units)
    distances, indices = search.kneighbors()
    return indices, 1 - distances


def mean_cosine(units: np.ndarray) -> float:
    """Return the mean cosine over all pairs of different vectors of n > 1: how much all of them point the same way."""
    count = len(units)
    total, own = units.sum(0, dtype=np.float64), np.square(units, dtype=np.float64).sum()
    return float((total @ total - own) / (count * (count - 1)))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often the nearest vector has the same label, and how often it would have by chance."""

    sequences: int
    """That have a label, and whose nearest has one."""
    same: float
    """Share of these whose label is their nearest's."""
    chance: float
    """Probability that two different ones, drawn at random, have the same label."""
    possible: float
    """Share of these that share their label with any other: more than this cannot agree."""


def agreement(labels: Sequence[str | None], neighbours: np.ndarray) -> Agreement | None:
    """Compare labels with those of the nearest vectors.

    Parameters
    ----------
    labels : sequence of str or None, length n
    neighbours : numpy.ndarray, dtype=int64, shape=(n,)
        Index of each vector's nearest.

    Returns
    -------
    Agreement
        None where there are not two labelled vectors that are compared.
    """
    names = np.array([name or "" for name in labels], object)
    compared = (names != "") & (names[neighbours] != "")
    mine, theirs = names[compared], names[neighbours][compared]
    _, group, sizes = np.unique(mine.astype(str), return_inverse=True, return_counts=True)
    count = len(mine)
    if count < 2:
        return None
    return Agreement(
        sequences=count,
        same=float((mine == theirs).mean()),
        chance=float((sizes * (sizes - 1.0)).sum() / (count * (count - 1.0))),
        possible=float((sizes[group] > 1).mean()),
    )
