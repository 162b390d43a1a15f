"""What vectors are worth, for the report: scores beside those of baselines, from the table of evaluations."""

import os
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from embedome.analysis.drawing import new_plot
from embedome.analysis.palette import REFERENCE_LINE, Style, assign_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The method whose scores are dots, and those that others published; the rest are baselines.
FROZEN, PUBLISHED = "frozen", "published"
DASHES = {"random": "-", "one-hot": "--", "composition": "-."}
# Of the distance between two layers, what the dots of several models and heads take.
SPREAD = 0.6
COLUMNS = {
    "task": "task",
    "metric": "metric",
    "model": "model",
    "method": "method",
    "head": "head",
    "layer": "layer",
    "value": "score",
    "low": "interval from",
    "high": "interval to",
    "spread": "deviation of seeds",
    "val": "validation",
    "seeds": "seeds",
    "train": "train",
    "test": "test",
    "like_pretraining": "like pretraining",
    "counts": "other numbers than published",
    "source": "source",
}


def read_scores(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Return the rows of a table of evaluations, those of a task beside each other."""
    return sorted(pq.read_table(path).to_pylist(), key=lambda row: row["task"])


def scores_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[tuple]]:
    """Return the scores as a page has them: header, and a line for each."""

    def shown(value: Any) -> Any:
        return "" if value is None else round(value, 4) if isinstance(value, float) else value

    return list(COLUMNS.values()), [tuple(shown(row[name]) for name in COLUMNS) for row in rows]


def plot_scores(rows: list[dict[str, Any]]) -> "Figure":
    """Plot each task's metric by layer: dots with intervals for frozen vectors, lines for baselines and published."""
    main = [row for row in rows if row["main"]]
    tasks = list(dict.fromkeys(row["task"] for row in main))
    title = "Heads on frozen vectors: scores on test, 95 % intervals over proteins"
    styles = assign_styles(Counter(series_name(row) for row in main if row["method"] == FROZEN))
    figure, panels = new_plot(title, len(tasks), stacked=True)
    for axes, task in zip(panels, tasks, strict=True):
        mine = [row for row in main if row["task"] == task]
        draw_dots(axes, [row for row in mine if row["method"] == FROZEN], styles)
        draw_lines(axes, [row for row in mine if row["method"] != FROZEN])
        axes.set(title=task, xlabel="layer", ylabel=f"{mine[0]['metric']} on test")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)
    return figure


def series_name(row: dict[str, Any]) -> str:
    """Return what the legend calls a model with a head."""
    return f"{row['model']}, {row['head']}"


def draw_dots(axes: "Axes", rows: list[dict[str, Any]], styles: Mapping[str, Style]) -> None:
    """Draw scores of frozen vectors by layer, a style for each model and head, which is the same for all tasks."""
    from matplotlib.ticker import MaxNLocator

    series = list(dict.fromkeys(series_name(row) for row in rows))
    for number, name in enumerate(series):
        mine, style = [row for row in rows if series_name(row) == name], styles[name]
        shift = SPREAD * ((number + 0.5) / len(series) - 0.5)
        values = [row["value"] for row in mine]
        lengths = [
            [max(0.0, row["value"] - row["low"]) for row in mine],
            [max(0.0, row["high"] - row["value"]) for row in mine],
        ]
        places = [row["layer"] + shift for row in mine]
        drawn: dict[str, Any] = {"fmt": style.marker, "color": style.color, "markersize": 4, "capsize": 2}
        axes.errorbar(places, values, lengths, label=name, **drawn)
    layers = sorted({row["layer"] for row in rows}) or [0]
    axes.set_xlim(layers[0] - 0.7, layers[-1] + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_lines(axes: "Axes", rows: list[dict[str, Any]]) -> None:
    """Draw baselines, of several layers the best on validation, and what others published, as horizontal lines."""
    drawn = set()
    for row in rows:
        # Of several layers one line is enough.
        if row["best_layer"] is False:
            continue
        color, dashes, label = "#000000", DASHES.get(row["method"], ":"), f"{row['method']}, {row['head']}"
        if row["method"] == PUBLISHED:
            color, label = REFERENCE_LINE, f"{row['model']}, published"
        elif row["layer"] is not None:
            label = f"{label} ({row['model']}, layer {row['layer']})"
        label = f"{label}: {row['value']:.3f}"
        if label not in drawn:
            axes.axhline(row["value"], linewidth=1, color=color, linestyle=dashes, label=label)
            drawn.add(label)
