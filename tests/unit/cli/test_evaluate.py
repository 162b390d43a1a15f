"""`embedome evaluate`: options, what it prints, errors of one line."""

import json

import pytest
from embedome.cli import evaluate as cli
from embedome.cli.main import main
from embedome.evaluation.head_recipes import HEADS
from embedome.evaluation.settings import METHODS
from embedome.models.create import make_untrained
from helpers.made_tasks import write_flip_pairs


@pytest.fixture
def task(tmp_path):
    return write_flip_pairs(tmp_path / "data")


def test_scores_are_printed_and_what_it_takes_is_said_before(tmp_path, task, capsys):
    make_untrained(tmp_path / "small", "small", "esm1nv", {"layers": 1, "hidden": 8, "heads": 2, "feed_forward": 8}, 0)
    arguments = ["--task", "secondary_structure", "--data", str(task), "-o", str(tmp_path / "out"), "--device", "cpu"]
    arguments = ["evaluate", str(tmp_path / "small"), *arguments, "--head", "ridge", "--layer", "all"]
    main(arguments)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == [
        *("frozen, ridge, layer 0", "frozen, ridge, layer 1", "random, ridge, layer 0", "random, ridge, layer 1"),
        "one-hot, ridge",
    ]
    assert lines[-1] == f"{tmp_path}/out/table.tsv"
    log = printed.err
    assert log.index("in all: about") < log.index("accuracy")
    assert "other numbers of proteins than published: train 30 of 9,712" in log
    main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["table"] == lines[-1]
    assert f"frozen, ridge, layer 1: accuracy {found['methods']['frozen']['accuracy']['ridge, layer 1']:.4f}" in lines


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--task", "nothing"], "no task is called 'nothing'"),
        (["--layer", "last"], "--layer is last; expected numbers, or all"),
        (["--seeds", "0"], "seeds: 0; expected 1 or more"),
        (["--data", "nowhere"], "nowhere: no such file; check the path"),
    ],
)
def test_bad_options_are_errors_of_one_line(tmp_path, task, options, fault, capsys):
    arguments = ["--task", "secondary_structure", "--data", str(task), "-o", str(tmp_path / "out"), "--device", "cpu"]
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *arguments, *options])
    assert stopped.value.code == 2
    assert fault in capsys.readouterr().err


def test_the_options_are_those_of_the_library():
    assert cli.HEADS == HEADS
    assert cli.METHODS == METHODS
