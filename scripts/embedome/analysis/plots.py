"""The report's plots, drawn from the tables of the analyse stage: SVG, the same bytes each time.

On white, so that they read the same in dark mode; colours are Okabe & Ito's, distinct with any colour vision, and
lines differ in their dashes too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.atomic_files import atomic_path
from embedome.common.terms import SPLITS, TEST, TRAIN, VAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
OTHER = "#BBBBBB"
# Train, which the others are compared with, is grey and lies below them.
COLORS = {SPLITS[TRAIN]: "#777777", SPLITS[VAL]: "#0072B2", SPLITS[TEST]: "#D55E00"}
DASHES = {SPLITS[TRAIN]: "-", SPLITS[VAL]: "-", SPLITS[TEST]: "--"}
STANDARD = "ACDEFGHIKLMNPQRSTVWY"
LENGTH_BINS = 50
NORM_BINS = 60
# Cosine distances below are of float32's rounding.
SMALLEST_DISTANCE = 1e-6
# More points are drawn as a picture, as each would be an element of the SVG.
VECTOR_POINTS = 5000
WIDTH, HEIGHT = 7.0, 4.2


def plot_lengths(lengths: pa.Table) -> "Figure":
    """Plot the lengths of each split's sequences, as shares of the split."""
    figure, (axes,) = new_plot(f"Lengths of {total(lengths):,} sequences, duplicates included")
    longest = pc.max(lengths["length"]).as_py() or 1
    shortest = pc.min(lengths["length"]).as_py() or 1
    edges = np.unique(np.round(np.geomspace(shortest, longest + 1, LENGTH_BINS + 1)).astype(int))
    for split, rows, label in each_split(lengths, "sequences"):
        counts, _ = np.histogram(rows["length"].to_numpy(), edges, weights=rows["sequences"].to_numpy())
        axes.stairs(percent(counts), edges, label=label, **line(split))
    axes.set(xscale="log", xlabel="length (residues)", ylabel="share of the split's sequences (%)")
    plain_ticks(axes.xaxis)
    add_legend(axes, "split (sequences)")
    return figure


def plot_composition(composition: pa.Table, kept: Mapping[str, Mapping[str, int]]) -> "Figure":
    """Plot the residues of each split, as shares of the split; those beyond the twenty in one bar."""
    sequences = sum(split["sequences"] for split in kept.values())
    residues = sum(split["residues"] for split in kept.values())
    figure, (axes,) = new_plot(f"{residues:,} residues of the {sequences:,} sequences that were kept")
    letters = np.array(list(STANDARD))
    shares, labels = {}, {}
    for split, rows, label in each_split(composition, "count"):
        counts = dict(zip(rows["residue"].to_pylist(), rows["count"].to_pylist(), strict=True))
        mine = np.array([counts[letter] for letter in STANDARD])
        shares[split], labels[split] = percent(np.append(mine, sum(counts.values()) - mine.sum())), label
    order = np.argsort(-np.sum(list(shares.values()), axis=0)[:-1], kind="stable") if shares else np.arange(20)
    order, width = np.append(order, len(STANDARD)), 0.8 / max(len(shares), 1)
    # The others stand apart.
    middles = np.append(np.arange(len(STANDARD)), len(STANDARD) + 0.7)
    for number, (split, values) in enumerate(shares.items()):
        places = middles + width * (number - (len(shares) - 1) / 2)
        axes.bar(places, values[order], width, color=COLORS[split], label=labels[split])
    axes.set_xticks(middles, [*letters[order[:-1]], "other"])
    axes.set(xlabel="residue", ylabel="share of the split's residues (%)")
    add_legend(axes, "split (residues)")
    return figure


def plot_norms(norms: pa.Table) -> "Figure":
    """Plot the norms of each split's vectors, as shares of the split."""
    figure, (axes,) = new_plot(f"Norms of {total(norms):,} vectors")
    bins = np.unique(norms["low"].to_numpy())
    if len(bins):
        edges = norm_edges(bins[0], pc.max(norms["high"]).as_py())
        for split, rows, label in each_split(norms, "sequences"):
            counts, _ = np.histogram(rows["low"].to_numpy() * 1.0001, edges, weights=rows["sequences"].to_numpy())
            axes.stairs(percent(counts), edges, label=label, **line(split))
    axes.set(xlabel="Euclidean norm of the embedding", ylabel="share of the split's vectors (%)")
    add_legend(axes, "split (vectors)")
    return figure


def norm_edges(low: float, high: float) -> np.ndarray:
    """Return edges of at most `NORM_BINS` bins, each of the table's own bins whole in one of them."""
    if not low or not np.isfinite(high):
        return np.array([low, high if np.isfinite(high) else max(2 * low, 1.0)])
    first, last = round(64 * np.log2(low)), round(64 * np.log2(high))
    step = -(-(last - first) // NORM_BINS)
    return 2.0 ** (np.arange(first, last + step, step) / 64)


def plot_spectrum(components: pa.Table, rows: int, rank: float) -> "Figure":
    """Plot the share of the variance along each principal axis, and added up."""
    shares = components["share"].to_numpy() * 100
    title = f"Principal components of all {rows:,} vectors, {len(shares):,} dimensions; effective rank {rank:.1f}"
    figure, (left, right) = new_plot(title, 2)
    numbers = np.arange(1, len(shares) + 1)
    seen = shares > 1e-6
    left.plot(numbers[seen], shares[seen], color=PALETTE[0], marker=".", markersize=4, linewidth=1)
    left.set(xlabel="principal component", ylabel="share of the variance (%)", yscale="log" if seen.any() else "linear")
    right.plot(numbers, shares.cumsum(), color=PALETTE[0], linewidth=1.5)
    right.axvline(rank, color="#777777", linestyle=":", linewidth=1.2, label="effective rank")
    right.set(xlabel="principal components", ylabel="share of the variance, added up (%)", ylim=(0, 102))
    add_legend(right)
    for axes in (left, right):
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
    return figure


def plot_pca(sample: pa.Table, count: int, explained: Sequence[float]) -> "Figure":
    """Plot the first `count` sampled sequences on two axes of largest variance, by split and, where known, family."""
    sample = sample[:count]
    labels = [
        f"principal component {number} ({share:.0%} of the variance)"
        for number, share in enumerate([*explained, 0.0][:2], 1)
    ]
    title = f"{len(sample):,} sampled sequences on the principal axes of all vectors"
    return plot_points(title, sample, ("pc1", "pc2"), labels)


def plot_umap(sample: pa.Table, reason: str | None) -> "Figure":
    """Plot the map, by split and, where known, family; without one, write why."""
    sample = sample.filter(pc.is_valid(sample["umap1"]))
    if reason:
        return plot_nothing(f"There is no map: {reason}")
    title = f"UMAP of {len(sample):,} sampled sequences"
    return plot_points(title, sample, ("umap1", "umap2"), ["UMAP 1 (no unit)", "UMAP 2 (no unit)"])


def plot_points(title: str, sample: pa.Table, columns: Sequence[str], labels: Sequence[str]) -> "Figure":
    """Scatter sampled sequences: a panel by split and, where families are known, one by family."""
    points = np.stack([sample[column].to_numpy() for column in columns], 1)
    known = sample["family"].null_count < len(sample)
    figure, panels = new_plot(title, 2 if known else 1, height=5.0)
    splits = np.array(sample["split"].to_pylist(), object)
    there = [split for split in COLORS if (splits == split).any()]
    scatter(panels[0], points, splits, there, [COLORS[split] for split in there])
    add_legend(panels[0], "split (sequences)", below=True)
    if known:
        families = np.array([name or "unknown" for name in sample["family"].to_pylist()], object)
        names, counts = np.unique(families, return_counts=True)
        largest = names[np.argsort(-counts, kind="stable")][: len(PALETTE)].tolist()
        scatter(panels[1], points, families, largest, PALETTE)
        add_legend(panels[1], "family (sequences), the largest ones", below=True)
    for axes in panels:
        axes.set(xlabel=labels[0], ylabel=labels[1])
    return figure


def scatter(axes: "Axes", points: np.ndarray, groups: np.ndarray, names: Sequence[str], colors: Sequence[str]) -> None:
    """Draw points [n, 2], each named group in its colour over what was drawn before, all others in grey below."""
    rest = ~np.isin(groups, names)
    pieces = [(f"others ({rest.sum():,})", OTHER, rest)] if rest.any() else []
    pieces += [
        (f"{name} ({(groups == name).sum():,})", color, groups == name)
        for name, color in zip(names, colors, strict=False)
    ]
    for label, color, mine in pieces:
        x, y = points[mine].T
        axes.scatter(x, y, s=8, color=color, label=label, linewidths=0, rasterized=len(points) > VECTOR_POINTS)


def plot_drift(dimensions: pa.Table, drift: Mapping[str, Any], reference: Mapping[str, Any]) -> "Figure":
    """Plot the sizes of the dimensions' standardised differences to train, and those expected by chance.

    Parameters
    ----------
    dimensions : pyarrow.Table
    drift : mapping
        Of the statistics.
    reference : mapping
        The account of train: its rows.
    """
    compared = {split: about for split, about in drift.items() if about}
    if not compared:
        return plot_nothing("There is nothing to compare: val and test, or train, have no row")
    figure, (axes,) = new_plot(f"Drift from train ({reference['rows']:,} rows), dimension by dimension")
    for split, about in compared.items():
        mine = dimensions.filter(pc.equal(dimensions["split"], split))["standardised_difference"].to_numpy()
        sizes = np.sort(np.abs(mine[np.isfinite(mine)]))[::-1]
        places = 100 * (np.arange(len(sizes)) + 0.5) / max(len(mine), 1)
        axes.plot(places, sizes, label=f"{split} ({about['rows']:,} rows)", **line(split))
    places = np.linspace(0.5, 99.5, 199)
    for rows in sorted({about["rows"] for about in compared.values()}):
        deviation = (1 / rows + 1 / reference["rows"]) ** 0.5
        chance = [deviation * NormalDist().inv_cdf(1 - place / 200) for place in places]
        axes.plot(places, chance, color="#000000", linewidth=1, linestyle=":", label=f"{rows:,} rows, by chance")
    axes.set(
        xlabel="dimensions, largest difference first (%)",
        ylabel="difference of the means\n(standard deviations)",
        xlim=(0, 100),
    )
    axes.set_ylim(bottom=0)
    add_legend(axes)
    return figure


def plot_neighbours(sample: pa.Table, about: Mapping[str, Any] | None) -> "Figure":
    """Plot cosine distances from sampled sequences to their nearest, by whether both are of one family, or taxon."""
    if about is None:
        return plot_nothing("There are no neighbours: fewer than two sequences are sampled")
    rows = sample.filter(pc.is_valid(sample["nearest"]))
    kind = "family" if "same_family" in about else "taxon"
    column = rows["family"] if kind == "family" else rows["taxid"]
    labels = dict(zip(sample["id"].to_pylist(), column.to_pylist(), strict=False))
    mine = np.array([labels[name] for name in rows["id"].to_pylist()], object)
    theirs = np.array([labels[name] for name in rows["nearest"].to_pylist()], object)
    known = np.array([a is not None and b is not None for a, b in zip(mine, theirs, strict=True)])
    same = known & (mine == theirs)
    distances = np.maximum(1 - rows["cosine"].to_numpy(), SMALLEST_DISTANCE)
    figure, (axes,) = new_plot(f"Nearest neighbours among {len(rows):,} sampled sequences")
    edges = np.geomspace(distances.min() / 1.001, distances.max() * 1.001, LENGTH_BINS)
    groups = {f"same {kind}": same, f"another {kind}": known & ~same, f"{kind} unknown": ~known}
    colors = (PALETTE[0], PALETTE[4], OTHER)
    shown = [(name, group, color) for (name, group), color in zip(groups.items(), colors, strict=True) if group.any()]
    axes.hist(
        [distances[group] for _, group, _ in shown],
        edges.tolist(),
        stacked=True,
        color=[color for *_, color in shown],
        label=[f"{name} ({group.sum():,})" for name, group, _ in shown],
    )
    near = 1 - about["near_cosine"]
    if distances.min() <= near:
        label = f"near duplicates, to the left ({about['near_duplicates']:,})"
        axes.axvline(near, color="#000000", linestyle=":", linewidth=1.2, label=label)
    axes.set(xscale="log", xlabel="1 - cosine to the nearest other sequence", ylabel="sequences per bin")
    add_legend(axes, "nearest of (sequences)")
    return figure


def plot_nothing(reason: str) -> "Figure":
    """Make a figure that says why there is no plot."""
    figure, (axes,) = new_plot("")
    axes.set_axis_off()
    axes.text(0.5, 0.5, reason, ha="center", va="center", wrap=True)
    return figure


def new_plot(
    title: str, panels: int = 1, height: float = HEIGHT, *, stacked: bool = False
) -> "tuple[Figure, Sequence[Axes]]":
    """Make an empty figure of `panels` panels side by side, or one below the other with a legend beside each."""
    import matplotlib

    matplotlib.use("Agg")
    # Without the first the file would differ from run to run; text as text can be found and read aloud.
    matplotlib.rcParams.update({"svg.hashsalt": "embedome", "svg.fonttype": "none", "font.size": 10})
    from matplotlib import pyplot

    rows, columns = (panels, 1) if stacked else (1, panels)
    size = (WIDTH + 3, height * panels) if stacked else (WIDTH + 3 * (panels - 1), height)
    figure, found = pyplot.subplots(rows, columns, figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11)
    all_axes = np.atleast_1d(found)
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, all_axes.tolist()


def each_split(table: pa.Table, counted: str) -> list[tuple[str, pa.Table, str]]:
    """Return each split that has any, train first, with its rows and its label in a legend."""
    found = []
    for split in COLORS:
        rows = table.filter(pc.equal(table["split"], split))
        if count := pc.sum(rows[counted]).as_py():
            found.append((split, rows, f"{split} ({count:,})"))
    return found


def total(table: pa.Table) -> int:
    """Return the number of sequences of all rows."""
    return pc.sum(table["sequences"]).as_py() or 0


def percent(counts: np.ndarray) -> np.ndarray:
    """Return counts as percents of their sum."""
    return 100 * counts / max(counts.sum(), 1)


def line(split: str) -> dict[str, Any]:
    """Return how a split's line is drawn."""
    return {"color": COLORS[split], "linestyle": DASHES[split], "linewidth": 1.5}


def add_legend(axes: "Axes", title: str | None = None, *, below: bool = False) -> None:
    """Add a legend where there is something to label, inside the axes or below them."""
    if not axes.get_legend_handles_labels()[0]:
        return
    place: dict[str, Any] = {}
    if below:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "ncols": 3, "markerscale": 2}
    axes.legend(title=title, frameon=False, **place)


def plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as SVG."""
    from matplotlib import pyplot

    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", dpi=200, metadata={"Date": None})
    pyplot.close(figure)
