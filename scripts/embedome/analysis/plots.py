"""The report's plots, drawn from the tables of the analyse stage. No plot needs colour alone (palette.py)."""

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.analysis.drawing import (
    add_legend,
    component_labels,
    each_split,
    hatched,
    line,
    new_plot,
    percent,
    plain_ticks,
    plot_nothing,
)
from embedome.analysis.labels import Labels
from embedome.analysis.palette import OTHERS, PALETTE, REFERENCE_LINE, SPLIT_STYLES, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STANDARD = "ACDEFGHIKLMNPQRSTVWY"
LENGTH_BINS = 50
NORM_BINS = 60
# A bin of a split with fewer rows has few of them, and its bars are mostly noise.
SMALL_SPLIT = 1000
# Cosine distances below are of float32's rounding.
SMALLEST_DISTANCE = 1e-6
# More points are drawn as a picture, as each would be an element of the SVG.
VECTOR_POINTS = 5000
# Whether a sequence and its nearest share a label: they do, they do not, it is not known.
AGREEMENT = (Style(PALETTE[0]), Style(PALETTE[4], hatch="//"), Style(OTHERS.color, hatch=".."))


def plot_lengths(lengths: pa.Table) -> "Figure":
    """Plot the lengths of each split's sequences, as shares of the split and added up."""
    longest = pc.max(lengths["length"]).as_py() or 1
    shortest = pc.min(lengths["length"]).as_py() or 1
    edges = np.unique(np.round(np.geomspace(shortest, longest + 1, LENGTH_BINS + 1)).astype(int))
    title = f"Lengths of {total(lengths):,} sequences, duplicates included"
    figure = plot_distribution(title, lengths, "length", edges, "sequences")
    for axes in figure.axes:
        axes.set(xscale="log", xlabel="length (residues)")
        plain_ticks(axes.xaxis)
    return figure


def plot_norms(norms: pa.Table) -> "Figure":
    """Plot the norms of each split's vectors, as shares of the split and added up."""
    bins = np.unique(norms["low"].to_numpy())
    edges = norm_edges(bins[0], pc.max(norms["high"]).as_py()) if len(bins) else np.array([0.0, 1.0])
    figure = plot_distribution(f"Norms of {total(norms):,} vectors", norms, "low", edges, "vectors")
    for axes in figure.axes:
        axes.set_xlabel("Euclidean norm of the embedding")
    return figure


def plot_distribution(title: str, table: pa.Table, column: str, edges: np.ndarray, counted: str) -> "Figure":
    """Plot how a number is distributed: a histogram of large splits, and cumulative curves of all.

    Parameters
    ----------
    title : str
    table : pyarrow.Table
        Columns split, `column` and sequences.
    column : str
        The number.
    edges : numpy.ndarray
        Of the histogram's bins.
    counted : str
        What is counted, in the plural.
    """
    splits = each_split(table, "sequences")
    large = [each for each in splits if total(each[1]) >= SMALL_SPLIT]
    figure, panels = new_plot(title, 2 if large else 1)
    for split, rows, label in large:
        shares, _ = np.histogram(rows[column].to_numpy(), edges, weights=rows["sequences"].to_numpy())
        panels[0].stairs(percent(shares), edges, label=label, **line(split))
    for split, rows, label in splits:
        rows = rows.sort_by(column)
        values, added = rows[column].to_numpy(), percent(rows["sequences"].to_numpy()).cumsum()
        # From 0 on, and level to the end.
        x = np.concatenate([values[:1], values, [max(edges[-1], values[-1])]])
        panels[-1].step(x, np.concatenate([[0], added, added[-1:]]), where="post", label=label, **line(split))
    if large:
        panels[0].set_ylabel(f"share of the split's {counted} (%)")
        panels[0].set_title(f"splits of {SMALL_SPLIT:,} {counted} or more", fontsize=10)
        panels[1].set_title("all splits, added up", fontsize=10)
        add_legend(panels[0], f"split ({counted})")
    panels[-1].set(ylabel="share up to this value (%)", ylim=(0, 102))
    add_legend(panels[-1], f"split ({counted})")
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
        axes.bar(places, values[order], width, label=labels[split], **hatched(SPLIT_STYLES[split]))
    axes.set_xticks(middles, [*letters[order[:-1]], "other"])
    axes.set(xlabel="residue", ylabel="share of the split's residues (%)")
    add_legend(axes, "split (residues)")
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
    right.axvline(rank, color=REFERENCE_LINE, linestyle=":", linewidth=1.2, label=f"effective rank, {rank:.1f}")
    right.set(xlabel="principal components", ylabel="share of the variance, added up (%)", ylim=(0, 102))
    add_legend(right)
    for axes in (left, right):
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
    return figure


def plot_pca(sample: pa.Table, labels: Labels, count: int, explained: Sequence[float]) -> "Figure":
    """Plot the first `count` sampled sequences on two axes of largest variance, by split and, where known, family."""
    drawn = np.arange(len(sample)) < count
    title = f"{drawn.sum():,} sampled sequences on the principal axes of all vectors"
    return plot_points(
        title, sample, labels, drawn, dict(zip(("pc1", "pc2"), component_labels(explained), strict=True))
    )


def plot_umap(sample: pa.Table, labels: Labels, reason: str | None) -> "Figure":
    """Plot the map, by split and, where known, family; without one, write why."""
    if reason:
        return plot_nothing(f"There is no map: {reason}")
    drawn = pc.is_valid(sample["umap1"]).to_numpy()
    title = f"UMAP of {drawn.sum():,} sampled sequences"
    return plot_points(title, sample, labels, drawn, {"umap1": "UMAP 1 (no unit)", "umap2": "UMAP 2 (no unit)"})


def plot_points(
    title: str, sample: pa.Table, labels: Labels, drawn: np.ndarray, axes_labels: Mapping[str, str]
) -> "Figure":
    """Scatter sampled sequences: a panel by split and, where families are known, one by family.

    Parameters
    ----------
    title : str
    sample : pyarrow.Table
        Of k rows.
    labels : Labels
        Of them.
    drawn : numpy.ndarray, dtype=bool, shape=(k,)
        Which of them are drawn.
    axes_labels : mapping
        The two columns that are drawn, with their labels.
    """
    points = np.stack([sample[column].to_numpy() for column in axes_labels], 1)[drawn]
    families = labels.kind == "family"
    figure, panels = new_plot(title, 2 if families else 1, height=5.0)
    splits = np.array(sample["split"].to_pylist(), object)[drawn]
    scatter(panels[0], points, splits, {split: style for split, style in SPLIT_STYLES.items() if split in set(splits)})
    add_legend(panels[0], "split (sequences)", below=True)
    if families:
        scatter(panels[1], points, np.array(labels.values, object)[drawn], labels.styles)
        add_legend(panels[1], "family (sequences), the largest ones", below=True)
    for panel in panels:
        panel.set(**dict(zip(("xlabel", "ylabel"), axes_labels.values(), strict=True)))
    return figure


def scatter(axes: "Axes", points: np.ndarray, groups: np.ndarray, styles: Mapping[str, Style]) -> None:
    """Draw points [n, 2], each group that has a style over what was drawn before, all others in grey below."""
    rest = ~np.isin(groups, list(styles))
    pieces = [("others", OTHERS, rest)] if rest.any() else []
    pieces += [(name, style, groups == name) for name, style in styles.items()]
    for name, style, mine in pieces:
        x, y = points[mine].T
        axes.scatter(
            x,
            y,
            s=10,
            color=style.color,
            marker=style.marker,
            label=f"{name} ({mine.sum():,})",
            linewidths=0,
            rasterized=len(points) > VECTOR_POINTS,
        )


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
    styled = zip(groups.items(), AGREEMENT, strict=True)
    shown = [(name, group, style) for (name, group), style in styled if group.any()]
    axes.hist(
        [distances[group] for _, group, _ in shown],
        edges.tolist(),
        stacked=True,
        color=[style.color for *_, style in shown],
        hatch=[style.hatch for *_, style in shown],
        edgecolor="#ffffff",
        linewidth=0,
        label=[f"{name} ({group.sum():,})" for name, group, _ in shown],
    )
    near = 1 - about["near_cosine"]
    if distances.min() <= near:
        label = f"near duplicates, to the left ({about['near_duplicates']:,})"
        axes.axvline(near, color="#000000", linestyle=":", linewidth=1.2, label=label)
    axes.set(xscale="log", xlabel="1 - cosine to the nearest other sequence", ylabel="sequences per bin")
    add_legend(axes, "nearest of (sequences)")
    return figure


def total(table: pa.Table) -> int:
    """Return the number of sequences of all rows."""
    return pc.sum(table["sequences"]).as_py() or 0
