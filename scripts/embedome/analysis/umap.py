"""A map of vectors in the plane by UMAP (McInnes, Healy & Melville 2018, arXiv:1802.03426).

Shapes: n vectors, D dimensions.
"""

import warnings

import numpy as np

from embedome.analysis.nearest_neighbours import find_nearest

# umap-learn takes 15 and 0.1: groups that have no link to others, as families of unlike sequences, shrink to dots then.
NEIGHBOURS = 30  # the vector itself among them
DISTANCE = 0.5  # least distance of points, on the scale of the map
SMALLEST = 2 * NEIGHBOURS
SEED = 0


def no_map(count: int, asked: int, start: np.ndarray) -> str | None:
    """Return why there can be no map of these vectors; None where there can.

    Parameters
    ----------
    count : int
        Vectors that there are.
    asked : int
        Vectors that were asked for.
    start : numpy.ndarray, shape=(n, 2)
        Points to start from.
    """
    if not asked:
        return "report.umap_sequences is 0"
    if count < SMALLEST:
        return f"{count:,} sequences are too few; a map needs {SMALLEST}"
    if not np.ptp(start, axis=0).all():
        return "the vectors do not vary along two axes"
    return None


def umap_points(units: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return points in the plane whose neighbours are those of the vectors.

    One thread and a seed, so that the same vectors have the same points. The neighbours are exact, and the layout
    starts from the principal components: so it keeps more of the whole's order (Kobak & Linderman 2021,
    doi:10.1038/s41587-020-00809-z), and is not left to an eigensolver.

    Parameters
    ----------
    units : numpy.ndarray, dtype=float32, shape=(n, D)
        Of norm 1, n at least `SMALLEST`.
    start : numpy.ndarray, shape=(n, 2)
        Their principal components.

    Returns
    -------
    numpy.ndarray, dtype=float32, shape=(n, 2)
    """
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        indices, cosines = find_nearest(units, NEIGHBOURS - 1)
        own = np.arange(len(units))[:, None]
        distances = np.maximum(1 - cosines, 0)
        neighbours = (np.hstack([own, indices]), np.hstack([np.zeros_like(distances[:, :1]), distances]), None)
        model = UMAP(
            n_neighbors=NEIGHBOURS,
            min_dist=DISTANCE,
            metric="cosine",
            init=start.astype(np.float32),
            precomputed_knn=neighbours,
            force_approximation_algorithm=True,  # or neighbours given are not used below 4,096 vectors
            random_state=SEED,
            n_jobs=1,
        )
        # Again, as the libraries have been loaded by now.
        with threadpool_limits(1):
            return model.fit_transform(units)
