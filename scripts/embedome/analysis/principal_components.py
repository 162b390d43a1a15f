"""Mean, covariance and exact principal components of vectors, added up piece by piece in double precision.

Shapes: n vectors, D dimensions.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

# Axes that points are drawn on.
DRAWN = 2


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and scatter of n vectors; those of two sets add up to those of their union.

    Sums of squares would lose the variance of a dimension whose mean is large. So each piece is centred on its own
    mean, and pieces are joined by the update of Chan, Golub & LeVeque.

    References
    ----------
    Chan, Golub & LeVeque 1983, The American Statistician 37:242-247, doi:10.1080/00031305.1983.10483115
    """

    count: int
    mean: np.ndarray
    """float64 [D]; zeros where there is no vector."""
    scatter: np.ndarray
    """float64 [D, D]: sum over the vectors of the products of their deviations from the mean."""

    @classmethod
    def empty(cls, dimension: int) -> Self:
        """Return those of no vector."""
        return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

    @classmethod
    def of(cls, vectors: np.ndarray) -> Self:
        """Return those of the rows of a matrix [n, D] of any float type; a copy in double precision is made."""
        if not len(vectors):
            return cls.empty(vectors.shape[1])
        deviations = vectors.astype(np.float64)
        mean = deviations.mean(0)
        deviations -= mean
        return cls(len(vectors), mean, deviations.T @ deviations)

    def __add__(self, other: Self) -> Self:
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = np.outer(step, step) * (self.count * (other.count / count))
        return type(self)(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """Covariance [D, D] of these vectors themselves: divided by n, not n - 1; zeros where there is none."""
        return self.scatter / max(self.count, 1)

    @property
    def variance(self) -> np.ndarray:
        """Variance [D] of each dimension, divided by n."""
        return np.diagonal(self.scatter) / max(self.count, 1)


class Components:
    """Principal axes of vectors whose moments are known.

    Attributes
    ----------
    mean : numpy.ndarray, dtype=float64, shape=(D,)
    variances : numpy.ndarray, dtype=float64, shape=(D,)
        Eigenvalues of the covariance, largest first: the variance along each axis.
    axes : numpy.ndarray, dtype=float64, shape=(D, D)
        Eigenvectors as columns, in the same order. The entry of each that is largest in size is positive.
    """

    def __init__(self, moments: Moments) -> None:
        values, vectors = np.linalg.eigh(moments.covariance)
        self.mean = moments.mean
        self.variances = np.maximum(values[::-1], 0)
        axes = vectors[:, ::-1]
        # The sign of an eigenvector is arbitrary; fix it, so that plots are the same everywhere.
        largest = axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])]
        self.axes = axes * np.where(largest < 0, -1.0, 1.0)

    @property
    def explained(self) -> np.ndarray:
        """Share [D] of the variance along each axis; zeros where there is none."""
        total = self.variances.sum()
        return self.variances / total if total else self.variances

    @property
    def effective_rank(self) -> float:
        """Effective rank of the covariance matrix: exponential of the entropy of `explained`; 0 without variance.

        The covariance's singular values are its eigenvalues, the variances; those of the centred data are their roots.

        References
        ----------
        Roy & Vetterli 2007, The effective rank: a measure of effective dimensionality, EUSIPCO, 606-610
        """
        shares = self.explained[self.explained > 0]
        return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0

    def count_axes(self, share: float) -> int:
        """Return how many axes together have at least that share of the variance; 0 where there is none."""
        reached = np.cumsum(self.explained) >= share * self.explained.sum() - 1e-12
        return int(np.argmax(reached)) + 1 if self.variances.any() else 0

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Return the coordinates of vectors [n, D] on the first two axes, float64 [n, 2]; zeros on a missing axis."""
        points = np.zeros((len(vectors), DRAWN))
        axes = self.axes[:, :DRAWN]
        points[:, : axes.shape[1]] = (vectors.astype(np.float64) - self.mean) @ axes
        return points
