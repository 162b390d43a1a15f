"""Mean and covariance of vectors, added up piece by piece in double precision.

Shapes: n vectors, D dimensions.
"""

from dataclasses import dataclass

import numpy as np


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
    def empty(cls, dimension: int) -> "Moments":
        """Those of no vector."""
        return cls(0, np.zeros(dimension), np.zeros((dimension, dimension)))

    @classmethod
    def of(cls, vectors: np.ndarray) -> "Moments":
        """Those of the rows of a matrix [n, D] of any float type; a copy in double precision is made."""
        if not len(vectors):
            return cls.empty(vectors.shape[1])
        deviations = vectors.astype(np.float64)
        mean = deviations.mean(0)
        deviations -= mean
        return cls(len(vectors), mean, deviations.T @ deviations)

    def __add__(self, other: "Moments") -> "Moments":
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = np.outer(step, step) * (self.count * (other.count / count))
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """Covariance [D, D] of these vectors themselves: divided by n, not n - 1; zeros where there is none."""
        return self.scatter / max(self.count, 1)

    @property
    def variance(self) -> np.ndarray:
        """Variance [D] of each dimension, divided by n."""
        return np.diagonal(self.scatter) / max(self.count, 1)
