"""The rows of the tasks: whole, and with figures beside the split that they were published for."""

import re

import pytest
from embedome.common.errors import UserError
from embedome.evaluation.head_recipes import HEADS, heads_for
from embedome.evaluation.readers import READERS
from embedome.evaluation.tasks import TASKS, find_task
from helpers.paths import ROOT

CARD = {
    "secondary_structure": (9_712, 1_080, 648),
    "conservation": (9_392, 555, 519),
    "scl": (9_503, 1_678, 2_768),
    "meltome": (22_335, 2_482, 3_134),
    "gb1_sampled": (6_289, 699, 1_745),
}


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_row_is_whole(task):
    assert task.reader in READERS
    assert task.head in HEADS
    assert task.head in heads_for(task.level, task.kind)
    assert all((task.about, task.files, task.source, task.licence))
    assert len(task.counts) in (0, 3)
    assert bool(task.counts) == bool(task.counts_by)
    assert all(len(digest) == 64 for digest in task.sha256)


def test_counts_are_those_of_the_card():
    assert {name: TASKS[name].counts for name in CARD} == CARD


def test_published_figures_stand_beside_their_split_alone():
    assert {each.model: each.value for each in TASKS["secondary_structure"].published}["one-hot"] == 0.643
    assert {each.model: each.value for each in TASKS["conservation"].published}["ESM-1nv"] == 0.249
    assert [each.metric for each in TASKS["gb1"].published] == ["mse"] * 6
    assert TASKS["gb1_sampled"].published == ()
    assert TASKS["meltome_2021"].published == ()


def test_an_unknown_task_is_refused():
    with pytest.raises(UserError, match=r"no task is called 'ss'; expected one of secondary_structure, .*own"):
        find_task("ss")


def test_the_document_on_choosing_a_model_quotes_the_published_figures():
    text = (ROOT / "docs" / "choosing-a-model.md").read_text()
    quoted = {
        "secondary structure": "secondary_structure",
        "subcellular location": "scl",
        "conservation": "conservation",
        "melting temperature": "meltome",
        "GB1 variants": "gb1",
    }
    for words, task in quoted.items():
        [row] = re.findall(rf"^\| {words}, .+? \| (.+) \|$", text, re.MULTILINE)
        assert [float(value) for value in row.split(" | ")] == [each.value for each in TASKS[task].published]
    assert f"{100 * TASKS['ss3_cb513'].published[0].value:.2f} %" in text
