"""The whole: a model and a task in, scores beside those of baselines out, the same after a kill, nothing done twice."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from embedome.common.errors import UserError
from embedome.evaluation import evaluate as module
from embedome.evaluation import features, runs
from embedome.evaluation.evaluate import evaluate, evaluate_for_run
from embedome.evaluation.settings import EvaluateSettings
from embedome.models.create import make_untrained
from helpers.made_tasks import structure, write_flip_pairs, write_flip_values
from sklearn.metrics import accuracy_score

SIZES = {"layers": 2, "hidden": 16, "heads": 2, "feed_forward": 24, "positions": 26}
QUICK = EvaluateSettings(heads=("ridge",))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    make_untrained(folder, "small", "esm1nv", SIZES, 3)
    return folder


@pytest.fixture
def task(tmp_path):
    return write_flip_pairs(tmp_path / "data")


def result(out, name, method="frozen", model="small"):
    return json.loads((out / model / name / f"{method}.json").read_text())


def snapshot(out):
    """All results, but not what was computed on the way."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and "cache" not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_a_model_stands_beside_its_baselines_and_what_was_published(model, task, tmp_path):
    out = tmp_path / "out"
    found = evaluate("secondary_structure", [task], out, model=model, settings=EvaluateSettings(seeds=2))
    assert list(found) == ["frozen", "random", "one-hot"]
    about = result(out, "secondary_structure")
    assert about["model"]["name"] == "small"
    assert about["data"]["proteins"] == {"train": 30, "val": 8, "test": 10}
    assert about["data"]["difference"].startswith("train 30 of 9,712, val 8 of 1,080, test 10 of 648")
    assert about["data"]["as_measured"] is False
    [scored] = about["results"]
    assert (scored["head"], scored["layer"], len(scored["runs"])) == ("convolutions", 2, 2)
    accuracy = scored["scores"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(np.mean([run["test"]["accuracy"] for run in scored["runs"]]), abs=1e-5)
    assert accuracy["interval"][0] <= accuracy["mean"] <= accuracy["interval"][1]
    table = pq.read_table(out / "table.parquet").to_pylist()
    assert {row["method"] for row in table} == {"frozen", "random", "one-hot", "published"}
    assert {row["value"] for row in table if row["method"] == "published"} == {0.643, 0.773, 0.793, 0.818, 0.854, 0.855}
    text = (out / "table.tsv").read_text().splitlines()
    assert len(text) == len(table) + 1
    assert result(out, "secondary_structure", "one-hot")["model"] is None
    names = [each["name"] for each in (about["model"], result(out, "secondary_structure", "random")["model"])]
    assert names == ["small", "small"]


@pytest.mark.parametrize(("folder", "name"), [("a/small", "small"), ("run/model", "run"), ("run/model/", "run")])
def test_results_have_the_name_of_the_folder_or_of_the_run_that_made_the_model(folder, name, tmp_path):
    assert module.name_model(tmp_path / folder) == name


def test_predictions_of_each_protein_have_the_scores(model, task, tmp_path):
    out = tmp_path / "out"
    evaluate("secondary_structure", [task], out, model=model, settings=QUICK)
    folder = out / "small" / "secondary_structure" / "frozen"
    rows = pq.read_table(folder / "ridge.layer2.seed0.parquet").to_pylist()
    assert [row["id"] for row in rows] == [f"test{number}" for number in range(10)]
    fasta = (task / "sequences.fasta").read_text().split()
    truth, predicted = "", ""
    for row in rows:
        whole = structure(fasta[fasta.index(f">{row['id']}") + 1])
        # 26 positions hold 24 residues, and the first one of each protein does not count.
        assert row["residues"] == min(24, len(whole)) == len(row["prediction"])
        assert row["target"] == "-" + whole[1:24]
        truth, predicted = truth + row["target"][1:], predicted + row["prediction"][1:]
    scores = json.loads((folder / "ridge.layer2.seed0.json").read_text())["test"]
    assert scores["accuracy"] == pytest.approx(accuracy_score(list(truth), list(predicted)), abs=1e-5)


def test_all_layers_have_scores_and_the_best_on_validation_is_named(model, task, tmp_path):
    out = tmp_path / "out"
    settings = EvaluateSettings(heads=("ridge", "linear"), layers=(), methods=("frozen",), seeds=1)
    evaluate("secondary_structure", [task], out, model=model, settings=settings)
    about = result(out, "secondary_structure")
    assert [(each["layer"], each["head"]) for each in about["results"]] == [
        (layer, head) for layer in (0, 1, 2) for head in ("ridge", "linear")
    ]
    for head in ("ridge", "linear"):
        on_val = {each["layer"]: each["scores"]["accuracy"]["val"] for each in about["results"] if each["head"] == head}
        assert on_val[about["best_layers"][head]] == max(on_val.values())
    rows = pq.read_table(out / "table.parquet").to_pylist()
    best = {(row["head"], row["layer"]) for row in rows if row["best_layer"]}
    assert best == set(about["best_layers"].items())


class KilledError(BaseException):
    """As a kill."""


@pytest.mark.parametrize("after", [0, 3, 7])
@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_results_and_computes_nothing_twice(model, task, tmp_path, monkeypatch, after):
    monkeypatch.setattr(features, "BLOCK_RESIDUES", 200)
    done = []

    def watch(owner, name, limit):
        real = getattr(owner, name)

        def watched(*arguments):
            if len(done) == limit:
                raise KilledError
            done.append(name)
            return real(*arguments)

        monkeypatch.setattr(owner, name, watched)
        return lambda: monkeypatch.setattr(owner, name, real)

    settings = EvaluateSettings(heads=("ridge", "linear"), seeds=2, layers=(1, 2))
    undo = [watch(features.ModelFeatures, "make", None), watch(module, "do_run", None)]
    evaluate("secondary_structure", [task], tmp_path / "whole", model=model, settings=settings)
    whole = sorted(done)
    for each in undo:
        each()
    done.clear()
    undo = [watch(features.ModelFeatures, "make", after), watch(module, "do_run", after)]
    with pytest.raises(KilledError):
        evaluate("secondary_structure", [task], tmp_path / "killed", model=model, settings=settings)
    for each in undo:
        each()
    watch(features.ModelFeatures, "make", None), watch(module, "do_run", None)
    evaluate("secondary_structure", [task], tmp_path / "killed", model=model, settings=settings)
    assert sorted(done) == whole
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "whole")
    evaluate("secondary_structure", [task], tmp_path / "killed", model=model, settings=settings)
    assert sorted(done) == whole


def test_other_data_or_settings_are_computed_again(model, task, tmp_path, monkeypatch):
    done = []
    real = runs.do_run
    monkeypatch.setattr(module, "do_run", lambda *arguments: done.append(arguments[1].name) or real(*arguments))
    settings = EvaluateSettings(heads=("ridge",), methods=("one-hot",))
    for changed in (settings, settings, EvaluateSettings(heads=("ridge",), methods=("one-hot",), train_proteins=9)):
        evaluate("secondary_structure", [task], tmp_path / "out", settings=changed)
    assert len(done) == 2
    labels = task / "sampled.fasta"
    labels.write_text(labels.read_text().replace("C", "H", 1))
    evaluate("secondary_structure", [task], tmp_path / "out", settings=settings)
    assert len(done) == 3


def test_heads_have_the_threads_of_the_settings_whether_features_are_there_or_not(model, task, tmp_path, monkeypatch):
    threads = []
    real = runs.do_run
    monkeypatch.setattr(module, "do_run", lambda *given: threads.append(torch.get_num_threads()) or real(*given))
    for head in ("ridge", "linear"):
        settings = EvaluateSettings(heads=(head,), methods=("frozen",), threads=2, seeds=1)
        evaluate("secondary_structure", [task], tmp_path / "out", model=model, settings=settings)
    assert threads == [2, 2]


def test_without_a_model_there_are_baselines_alone(tmp_path):
    data = write_flip_values(tmp_path / "data" / "two_vs_rest.fasta")
    found = evaluate("gb1", [data], tmp_path / "out", settings=EvaluateSettings(heads=("mlp-128", "ridge"), seeds=2))
    assert list(found) == ["one-hot", "composition"]
    about = result(tmp_path / "out", "gb1", "composition", "no-model")
    scores = {each["head"]: (len(each["runs"]), each["scores"]["spearman"]["mean"]) for each in about["results"]}
    assert scores["mlp-128"][0] == 2
    # The value is linear in the composition.
    assert scores["ridge"][0] == 1
    assert scores["ridge"][1] > 0.99


def test_a_job_of_the_workflow_gives_the_results_of_the_command(model, task, tmp_path):
    settings = EvaluateSettings(heads=("ridge", "mlp-256"), methods=("composition", "one-hot", "frozen"))
    summary = tmp_path / "results" / "my-model" / "secondary_structure.json"
    evaluate_for_run("secondary_structure", [task], model, summary, settings=settings)
    found = json.loads(summary.read_text())
    assert list(found) == ["frozen", "one-hot"]
    assert not (tmp_path / "results" / "table.tsv").exists()
    evaluate("secondary_structure", [task], tmp_path / "out", model=model, settings=QUICK)
    for method in found:
        mine = result(tmp_path / "results", "secondary_structure", method, "my-model")
        assert mine["results"] == result(tmp_path / "out", "secondary_structure", method)["results"]
        assert list(found[method]["accuracy"].values()) == [mine["results"][0]["scores"]["accuracy"]["mean"]]


def test_proteins_that_are_skipped_are_neither_trained_on_nor_scored(model, task, tmp_path):
    settings = EvaluateSettings(heads=("ridge",), methods=("frozen", "one-hot"), long_sequences="skip")
    evaluate("secondary_structure", [task], tmp_path / "out", model=model, settings=settings)
    counts = [
        result(tmp_path / "out", "secondary_structure", method)["results"][0]["proteins"] for method in settings.methods
    ]
    assert counts[0] == counts[1]
    assert 0 < counts[0]["test"] < 10


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"heads": ("mlp-256",)}, "--head is mlp-256; expected for classes of a residue one of convolutions"),
        ({"layers": (4,)}, r"--layer is 4; expected 0 \(the embedding\) to 2"),
        ({"methods": ("composition",)}, "--method composition says nothing of a single residue"),
        ({"seeds": 0}, "seeds: 0; expected 1 or more"),
        ({"overlap": 3}, "overlap: 3; expected 0 or more, and windows with it"),
        ({"max_residues": 40}, "max_residues is 40; expected 1 to 24"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line(model, task, tmp_path, settings, fault):
    with pytest.raises(UserError, match=fault):
        evaluate("secondary_structure", [task], tmp_path / "out", model=model, settings=EvaluateSettings(**settings))


def test_a_method_of_a_model_needs_one(task, tmp_path):
    with pytest.raises(UserError, match="--method frozen needs a model directory; expected one-hot"):
        evaluate("secondary_structure", [task], tmp_path / "out", settings=EvaluateSettings(methods=("frozen",)))


def test_a_full_disk_is_said_before_anything_runs(model, task, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"needs .* MB, but 0.0 MB are free there"):
        evaluate("secondary_structure", [task], tmp_path / "out", model=model, settings=QUICK)
