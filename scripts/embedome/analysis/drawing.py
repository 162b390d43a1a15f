"""What figures of the report have in common: panels, legends, lines of splits, files.

Figures are on white, so that they read the same in dark mode, and SVG with the same bytes each time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.analysis.palette import SPLIT_STYLES, Style
from embedome.common.atomic_files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 7.0, 4.2


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


def plot_nothing(reason: str) -> "Figure":
    """Make a figure that says why there is no plot."""
    figure, (axes,) = new_plot("")
    axes.set_axis_off()
    axes.text(0.5, 0.5, reason, ha="center", va="center", wrap=True)
    return figure


def component_labels(explained: Sequence[float]) -> list[str]:
    """Return what the axes of the first two principal components are called, by their shares of the variance."""
    shares = [*explained, 0.0, 0.0][:2]
    return [f"principal component {number} ({share:.0%} of the variance)" for number, share in enumerate(shares, 1)]


def each_split(table: pa.Table, counted: str) -> list[tuple[str, pa.Table, str]]:
    """Return each split that has any, train first, with its rows and its label in a legend."""
    found = []
    for split in SPLIT_STYLES:
        rows = table.filter(pc.equal(table["split"], split))
        if count := pc.sum(rows[counted]).as_py():
            found.append((split, rows, f"{split} ({count:,})"))
    return found


def line(split: str) -> dict[str, Any]:
    """Return how a split's line is drawn."""
    style = SPLIT_STYLES[split]
    return {"color": style.color, "linestyle": style.dashes, "linewidth": 1.5}


def hatched(style: Style) -> dict[str, Any]:
    """Return how a bar is drawn; the hatch is white on its colour."""
    return {"color": style.color, "hatch": style.hatch, "edgecolor": "#ffffff", "linewidth": 0}


def percent(counts: np.ndarray) -> np.ndarray:
    """Return counts as percents of their sum."""
    return 100 * counts / max(counts.sum(), 1)


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
