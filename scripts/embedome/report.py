"""Report stage: statistics and plots of a data set, for Snakemake's report. Reads one file at a time, with Dask."""

import csv
import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedome.dataset import Dataset, open_dataset
from embedome.files import atomic_path, read_json, write_json
from embedome.split import SPLITS
from embedome.workers import Workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito's palette, told apart with any colour vision; grey for all that is not named.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
OTHER = "#BBBBBB"
LENGTH_BINS = np.unique(np.round(np.logspace(1, 5, 81)).astype(int))


def write_report(
    dataset: str | os.PathLike,
    ledger: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    families: str | os.PathLike | None = None,
    pca_sequences: int = 2000,
    workers: Workers | None = None,
) -> None:
    """Write ``statistics.json``, ``ledger.tsv``, ``lengths.svg`` and ``pca.svg``.

    Parameters
    ----------
    dataset : path
        Folder of the merged data set.
    ledger : path
        ledger.json
    folder : path
        Where the files go.
    families : path, optional
        ``families.tsv.gz`` of a demo release: the PCA is then coloured by family instead of split.
    pca_sequences : int
        Sequences drawn in the PCA plot.
    workers : Workers, optional
        What adds the vectors up; one thread of this process if not given.
    """
    folder = Path(folder)
    data = open_dataset(dataset)
    components = principal_components(data, workers or Workers())
    statistics = {**data.describe(), **components.as_json(), "length_quantiles": length_quantiles(data)}
    write_ledger_table(read_json(ledger), folder / "ledger.tsv")
    save(plot_lengths(data), folder / "lengths.svg")
    save(plot_pca(data, components, pca_sequences, families), folder / "pca.svg")
    write_json(folder / "statistics.json", statistics)


def write_ledger_table(ledger: dict[str, Any], path: Path) -> None:
    """Write the ledger as a table, one line per state a record can end in, with each split's share."""
    rows = [("rejected: " + reason, count, *[""] * len(SPLITS)) for reason, count in ledger["rejected"].items()]
    for kind in ("states", "skipped"):
        for name, count in ledger[kind].items():
            shares = [ledger["splits"][split][kind].get(name, 0) for split in SPLITS]
            rows.append((name if kind == "states" else f"skipped: {name}", count, *shares))
    rows.append(("read", ledger["read"], *[ledger["splits"][split]["sequences"] for split in SPLITS]))
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerows([("state", "records", *SPLITS), *rows])


class Components:
    """Mean and principal axes of all vectors of a data set.

    Attributes
    ----------
    mean : numpy.ndarray, dtype=float64, shape=(D,)
    axes : numpy.ndarray, dtype=float64, shape=(D, 2)
        The two directions of largest variance.
    variances : numpy.ndarray, dtype=float64, shape=(D,)
        Eigenvalues of the covariance, largest first.
    """

    def __init__(self, mean: np.ndarray, covariance: np.ndarray, norms: tuple[float, float]) -> None:
        values, vectors = np.linalg.eigh(covariance)
        self.mean, self.norms = mean, norms
        self.variances = np.maximum(values[::-1], 0)
        # The sign of an eigenvector is arbitrary; fix it, so that the plot is the same everywhere.
        axes = vectors[:, ::-1][:, :2]
        self.axes = axes * np.sign(axes[np.abs(axes).argmax(0), range(axes.shape[1])])

    @property
    def explained(self) -> np.ndarray:
        """Share of the variance along each axis; zeros where there is none."""
        total = self.variances.sum()
        return self.variances / total if total else self.variances

    @property
    def effective_rank(self) -> float:
        """Exponential of the entropy of the eigenvalue shares (Roy & Vetterli 2007, EUSIPCO)."""
        shares = self.explained[self.explained > 0]
        return float(np.exp(-(shares * np.log(shares)).sum()))

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Coordinates of vectors [n, D] on the first two axes, [n, 2]."""
        return (vectors.astype(np.float64) - self.mean) @ self.axes

    def as_json(self) -> dict[str, Any]:
        """Numbers for the report."""
        return {
            "norm_mean": self.norms[0],
            "norm_std": self.norms[1],
            "explained_variance": [round(float(share), 6) for share in self.explained[:10]],
            "effective_rank": round(self.effective_rank, 3),
        }


def principal_components(data: Dataset, workers: Workers) -> Components:
    """Principal components of all vectors, exact, in one pass over the files with Dask."""
    import dask
    import dask.array as da

    vectors = data.to_dask().astype(np.float64)
    norms = da.sqrt((vectors**2).sum(1))
    # A worker holds a file in double precision.
    with workers.client():
        total, products, mean, std = dask.compute(vectors.sum(0), vectors.T @ vectors, norms.mean(), norms.std())
    center = total / len(data)
    covariance = products / len(data) - np.outer(center, center)
    return Components(center, covariance, (float(mean), float(std)))


def length_quantiles(data: Dataset) -> dict[str, list[int]]:
    """Lengths in residues at 0, 25, 50, 75 and 100 % of each split's rows, from a histogram of single residues."""
    result = {}
    for split in data.splits:
        counts = sum_counts(table["length"].to_numpy() for table in data.tables(["length"], split))
        ends = np.cumsum(counts)
        if len(ends):
            ranks = np.maximum(np.ceil(np.array([0, 0.25, 0.5, 0.75, 1]) * ends[-1]), 1)
            result[split] = np.searchsorted(ends, ranks).tolist()
    return result


def sum_counts(arrays: Iterator[np.ndarray]) -> np.ndarray:
    """Number of occurrences of each value over several arrays."""
    total = np.zeros(0, np.int64)
    for array in arrays:
        counts = np.bincount(array, minlength=len(total))
        counts[: len(total)] += total
        total = counts
    return total


def plot_lengths(data: Dataset) -> "Figure":
    """Histogram of sequence lengths by split, both axes logarithmic."""
    figure, axes = new_plot()
    for color, split in zip(PALETTE, data.splits, strict=False):
        counts = np.zeros(len(LENGTH_BINS) - 1)
        for table in data.tables(["length"], split):
            counts += np.histogram(table["length"].to_numpy(), LENGTH_BINS)[0]
        label = f"{split} ({data.manifest['splits'][split]['rows']:,})"
        axes.stairs(counts, LENGTH_BINS, color=color, label=label, linewidth=1.5)
    axes.set(xscale="log", yscale="log", xlabel="length (residues)", ylabel="sequences per bin")
    axes.legend(title="split (sequences)", frameon=False)
    return figure


def plot_pca(data: Dataset, components: Components, n_sequences: int, families: str | os.PathLike | None) -> "Figure":
    """Scatter of an even sample of the vectors on the two axes of largest variance."""
    ids, points, splits = sample_points(data, components, n_sequences)
    groups = read_families(families, ids) if families else splits
    names, counts = np.unique(groups, return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")][: len(PALETTE)]
    figure, axes = new_plot()
    rest = ~np.isin(groups, largest)
    if rest.any():
        axes.scatter(*points[rest].T, s=6, color=OTHER, label=f"other ({rest.sum():,})", linewidths=0)
    for color, name in zip(PALETTE, largest, strict=False):
        mine = groups == name
        axes.scatter(*points[mine].T, s=9, color=color, label=f"{name} ({mine.sum():,})", linewidths=0)
    shares = components.explained
    axes.set(xlabel=f"PC1 ({shares[0]:.0%} of variance)", ylabel=f"PC2 ({shares[1:2].sum():.0%} of variance)")
    axes.legend(
        title=f"{'family' if families else 'split'} (sequences)",
        frameon=False,
        markerscale=2,
        loc="upper left",
        bbox_to_anchor=(1, 1),
    )
    return figure


def sample_points(data: Dataset, components: Components, n_sequences: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, coordinates [n, 2] and splits of every k-th row, so that about `n_sequences` are drawn."""
    step = max(1, -(-len(data) // n_sequences))
    ids, points, splits = [], [np.zeros((0, 2))], []
    for split in data.splits:
        for names, vectors in data.matrix(split):
            ids += names[::step]
            points.append(components.project(vectors[::step]))
            splits += [split] * len(names[::step])
    return ids, np.concatenate(points), np.array(splits)


def read_families(path: str | os.PathLike, ids: list[str]) -> np.ndarray:
    """The family of each id, from a table with the columns id and family."""
    wanted = set(ids)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as handle:
        found = {row["id"]: row["family"] for row in csv.DictReader(handle, delimiter="\t") if row["id"] in wanted}
    return np.array([found.get(name, "unknown") for name in ids])


def new_plot() -> tuple["Figure", Any]:
    """An empty plot, on white so that it reads the same in dark mode."""
    import matplotlib

    matplotlib.use("Agg")
    # Without these two the file would differ from run to run.
    matplotlib.rcParams.update({"svg.hashsalt": "embedome", "svg.fonttype": "none", "font.size": 10})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: "Figure", path: Path) -> None:
    """Write a plot as SVG."""
    from matplotlib import pyplot

    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    pyplot.close(figure)
