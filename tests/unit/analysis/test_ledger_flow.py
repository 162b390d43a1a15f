"""The ledger as a figure: bars that follow from each other and add up, with the ledger's own numbers."""

import pytest
from embedome.analysis.ledger_flow import flow_steps, plot_flow

LEDGER = {
    "read": 200,
    "rejected": {"too-short": 12, "fragment": 3},
    "states": {"duplicate": 20, "embedded": 130, "truncated": 30},
    "skipped": {"too-long": 5},
}
EMPTY = {"read": 0, "rejected": {}, "states": {}, "skipped": {}}


def test_bars_follow_from_each_other():
    assert [(step.name, step.start, step.count) for step in flow_steps(LEDGER)] == [
        ("records read", 0, 200),
        ("rejected: too-short", 188, 12),
        ("rejected: fragment", 185, 3),
        ("kept by the filter", 0, 185),
        ("skipped: too-long", 180, 5),
        ("rows of the data set", 0, 180),
        ("embedded whole", 0, 130),
        ("truncated: first residues alone", 130, 30),
        ("duplicates of other rows", 160, 20),
    ]


def test_bars_are_as_long_as_the_numbers_beside_them_say():
    [axes] = plot_flow(LEDGER).axes
    drawn = [(round(bar.get_x()), round(bar.get_width())) for bar in axes.patches]
    assert drawn == [(step.start, step.count) for step in flow_steps(LEDGER)]
    assert [text.get_text() for text in axes.texts][:3] == ["200 (100.0%)", "12 (6.0%)", "3 (1.5%)"]
    assert [label.get_text() for label in axes.get_yticklabels()][3] == "kept by the filter"


@pytest.mark.parametrize("ledger", [EMPTY, {**EMPTY, "read": 1, "rejected": {"too-short": 1}}])
def test_a_run_of_which_nothing_is_left_is_drawn(ledger):
    [axes] = plot_flow(ledger).axes
    assert len(axes.patches) == len(flow_steps(ledger)) >= 3
