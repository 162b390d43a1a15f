"""How far one split of a data set is from another: in its vectors and in the lengths of its sequences.

Shapes: D dimensions; a length histogram has the number of sequences of 0, 1, 2, … residues.
"""

import numpy as np

from embedome.analysis.principal_components import Moments
from embedome.common.terms import SPLITS, TRAIN

# What the others are compared with.
REFERENCE = SPLITS[TRAIN]


def standardised_differences(one: Moments, other: Moments) -> np.ndarray:
    """Return the difference of the means of each dimension in units of its deviation, float64 [D].

    ``(mean - mean') / sqrt((variance + variance') / 2)``; 0 where the means are equal, infinite where they differ and
    nothing varies.

    References
    ----------
    Austin 2009, Statistics in Medicine 28:3083-3107, doi:10.1002/sim.3697
    """
    difference = one.mean - other.mean
    deviation = np.sqrt((one.variance + other.variance) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / deviation)


def frechet_distance(one: Moments, other: Moments) -> float:
    """Return the squared Fréchet distance between the normal distributions with these means and covariances.

    ``|m - m'|² + tr(C + C' - 2 (C C')^(1/2))``, which for few vectors is above 0 even where both are drawn alike.

    References
    ----------
    Dowson & Landau 1982, Journal of Multivariate Analysis 12:450-455, doi:10.1016/0047-259X(82)90077-X;
    Heusel et al. 2017, arXiv:1706.08500
    """
    values, vectors = np.linalg.eigh(one.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    # C^(1/2) C' C^(1/2) has the eigenvalues of C C' and is symmetric.
    shared = np.linalg.eigvalsh(root @ other.covariance @ root)
    traces = one.variance.sum() + other.variance.sum() - 2 * np.sqrt(np.maximum(shared, 0)).sum()
    return float(max(((one.mean - other.mean) ** 2).sum() + traces, 0.0))


def length_distances(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return the Wasserstein-1 distance in residues, and the Kolmogorov-Smirnov statistic, of two length histograms.

    The first is the area between the two cumulative distributions, the second their largest difference.
    """
    size = max(len(one), len(other))
    shares = [np.pad(counts, (0, size - len(counts))).cumsum() / counts.sum() for counts in (one, other)]
    apart = np.abs(shares[0] - shares[1])
    return float(apart.sum()), float(apart.max())
