"""The ledger as a figure: from the records read to the rows of the data set, step by step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedome.analysis.drawing import hatched, new_plot
from embedome.analysis.palette import OTHER, PALETTE, Style
from embedome.common.terms import DUPLICATE, EMBEDDED, TRUNCATED, WINDOWED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What is there, what leaves, and what a row's vector is made of.
TOTAL, LEAVES, STATE = Style(PALETTE[0]), Style(PALETTE[4], hatch="//"), Style(PALETTE[5], hatch="..")
STATES = {
    EMBEDDED: "embedded whole",
    TRUNCATED: "truncated: first residues alone",
    WINDOWED: "in windows, averaged",
    DUPLICATE: "duplicates of other rows",
}
ROW_HEIGHT = 0.42


@dataclass(frozen=True, slots=True)
class Step:
    """A bar: records from `start` on, `count` of them."""

    name: str
    start: int
    count: int
    style: Style


def flow_steps(ledger: Mapping[str, Any]) -> list[Step]:
    """Return the bars from top to bottom: read, rejected, kept, skipped, rows, and the states of the rows.

    Bars that leave stand at the end of what is left; those of the states one after the other, so that all add up.
    """
    left = ledger["read"]
    steps = [Step("records read", 0, left, TOTAL)]
    for reason, count in ledger["rejected"].items():
        left -= count
        steps.append(Step(f"rejected: {reason}", left, count, LEAVES))
    steps.append(Step("kept by the filter", 0, left, TOTAL))
    for reason, count in ledger["skipped"].items():
        left -= count
        steps.append(Step(f"skipped: {reason}", left, count, LEAVES))
    steps.append(Step("rows of the data set", 0, left, TOTAL))
    start = 0
    for state, name in STATES.items():
        if count := ledger["states"].get(state, 0):
            steps.append(Step(name, start, count, STATE))
            start += count
    return steps


def plot_flow(ledger: Mapping[str, Any]) -> "Figure":
    """Plot what became of every record, a bar for each step with its number."""
    steps = flow_steps(ledger)
    figure, (axes,) = new_plot("What became of every record", height=1.2 + ROW_HEIGHT * len(steps))
    for place, step in enumerate(steps):
        axes.barh(place, step.count, left=step.start, height=0.7, **hatched(step.style))
        # Beside the bar, as a small one has no room.
        axes.annotate(
            f"{step.count:,} ({step.count / max(ledger['read'], 1):.1%})",
            (step.start + step.count, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
        if place:
            # Where the step before ends, this one begins.
            axes.plot([step.start + step.count] * 2, [place - 0.65, place - 0.35], color=OTHER, linewidth=0.8)
    axes.set_yticks(range(len(steps)), [step.name for step in steps])
    axes.invert_yaxis()
    axes.set(xlabel="records", xlim=(0, 1.25 * max(ledger["read"], 1)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure
