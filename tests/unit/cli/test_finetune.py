"""`embedome finetune` and `embedome models merge-adapter`: options, what they print, errors of one line."""

import filecmp

import pytest
from embedome.cli import finetune as cli
from embedome.cli.main import main
from embedome.evaluation.head_recipes import RECIPES
from embedome.evaluation.tuned import TuneSettings
from embedome.models.create import make_untrained
from helpers.made_tasks import write_flip_pairs

SIZES = {"layers": 1, "hidden": 8, "heads": 2, "feed_forward": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    write_flip_pairs(folder / "data")
    make_untrained(folder / "small", "small", "esm1nv", SIZES, 0)
    return folder


def arguments(folder, out, *others):
    task = ["--task", "secondary_structure", "--data", str(folder / "data"), "--device", "cpu"]
    return ["finetune", str(folder / "small"), *task, "-o", str(out), *others]


def test_scores_are_printed_and_the_merged_model_is_that_of_the_adapter(folder, tmp_path, capsys):
    main(arguments(folder, tmp_path / "out", "--epochs", "1", "--rank", "2"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("accuracy 0.")
    assert lines[1] == f"{tmp_path}/out/adapter, {tmp_path}/out/model"
    main(["models", "merge-adapter", str(folder / "small"), str(tmp_path / "out/adapter"), str(tmp_path / "merged")])
    weights = [tmp_path / name / "model.safetensors" for name in ("out/model", "merged")]
    assert filecmp.cmp(*weights, shallow=False)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--task", "nothing"], "no task is called 'nothing'"),
        (["--rank", "0"], "--rank is 0; expected 1 or more"),
        (["--targets", "wq"], "no linear layer wq; expected of"),
        (["--head", "mlp-128"], "--head is mlp-128; expected for classes of a residue one of convolutions"),
    ],
)
def test_a_mistake_is_one_line(folder, tmp_path, options, fault, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments(folder, tmp_path / "out", *options))
    assert ended.value.code == 2
    assert fault in capsys.readouterr().err.splitlines()[-1]


def test_choices_and_defaults_are_those_of_the_library(folder):
    from embedome.cli.main import make_parser

    assert set(cli.HEADS) == set(RECIPES)
    options, settings = make_parser().parse_args(arguments(folder, "x")), TuneSettings()
    assert (options.rank, options.alpha, options.dropout) == (
        settings.adapter.rank,
        settings.adapter.alpha,
        settings.adapter.dropout,
    )
    assert (options.rate, options.epochs, options.batch) == (settings.rate, settings.epochs, settings.batch)
