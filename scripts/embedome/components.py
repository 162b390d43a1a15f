"""Principal components of a data set, exact: from the covariance of all its vectors.

Shapes: n vectors, D dimensions.
"""

import numpy as np

from embedome.moments import Moments

# Axes that points are drawn on.
DRAWN = 2


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

    def needed(self, share: float) -> int:
        """How many axes together have at least that share of the variance; 0 where there is none."""
        reached = np.cumsum(self.explained) >= share * self.explained.sum() - 1e-12
        return int(np.argmax(reached)) + 1 if self.variances.any() else 0

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Coordinates of vectors [n, D] on the first two axes, float64 [n, 2]; zeros on an axis that is not there."""
        points = np.zeros((len(vectors), DRAWN))
        axes = self.axes[:, :DRAWN]
        points[:, : axes.shape[1]] = (vectors.astype(np.float64) - self.mean) @ axes
        return points
