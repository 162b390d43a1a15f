"""The workflow trains its model: database, splits, model and vectors in one graph."""

import json

import pytest
from embedome.dataset import open_dataset
from helpers.workflow_runs import SMALL, changed, run

# The whole module runs the workflow once: minutes.
pytestmark = pytest.mark.slow

TRAINED = {
    "untrained": None,
    "pretrain": {
        "recipe": "demo",
        "steps": 10,
        "tokens": 1000,
        "layers": 1,
        "decoder_layers": None,
        "hidden": 32,
        "heads": 4,
        "feed_forward": 64,
        "positions": 64,
        "init": None,
        "seed": 0,
        "nodes": 1,
        "ranks": 1,
        "threads": 1,
        "shard": False,
    },
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    result = run(folder, changed(SMALL, model=TRAINED))
    assert result.returncode == 0, result.stdout
    return folder


def test_the_data_set_is_of_the_model_that_was_trained(trained):
    summary = json.loads((trained / "results/pretraining/esm1nv-demo/summary.json").read_text())
    about = json.loads((trained / "resources/models/esm1nv-demo/config.json").read_text())["embedome"]
    assert about["trained"] is True
    assert about["pretraining"]["steps"] == summary["steps"] == 10
    dataset = open_dataset(trained / "results/dataset/esm1nv-demo")
    assert dataset.manifest["provenance"]["model"]["trained"] is True
    # It says how: data, split, recipe, losses, checkpoints.
    carried = dataset.manifest["provenance"]["model"]["pretraining"]
    assert carried == about["pretraining"]
    assert carried["recipe"] == "demo"
    assert carried["averaged"] == [10]
    stores = {name: trained / f"results/pretraining/esm1nv-demo/data/{name}/store.json" for name in ("train", "val")}
    for name, store in stores.items():
        assert carried["data"][name]["sequences"] == json.loads(store.read_text())["sequences"]
        assert carried["data"][name]["source"]["name"] == f"split {name}"
        assert carried["data"][name]["source"]["splits"]["method"] == "hash"
    assert len(dataset) == json.loads((trained / "results/summaries/filter.json").read_text())["kept"]


def test_the_report_has_a_page_and_a_plot_of_the_training(trained):
    report = trained / "results/report/esm1nv-demo"
    assert "Recipe demo: 10 steps" in (report / "training.svg").read_text()
    assert "baselines: neighbours" in (report / "training.html").read_text()


def test_train_is_what_the_split_stage_counted(trained):
    counts = json.loads((trained / "results/summaries/split.json").read_text())["splits"]
    for split in ("train", "val"):
        store = json.loads((trained / f"results/pretraining/esm1nv-demo/data/{split}/store.json").read_text())
        assert store["sequences"] == counts[split]["sequences"] - counts[split]["duplicates"]


def test_nothing_is_left_to_do(trained):
    result = run(trained, changed(SMALL, model=TRAINED), "--dry-run")
    assert "Nothing to be done" in result.stdout


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"recipe": "esm3"}, "model.pretrain.recipe is 'esm3'; expected one of esm1nv"),
        ({"hidden": 30}, "model.pretrain.hidden is 30; expected a multiple of heads, 4"),
        ({"init": "nowhere"}, "nowhere: no such model directory"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(tmp_path, changes, fault):
    model = {**TRAINED, "pretrain": {**TRAINED["pretrain"], **changes}}
    result = run(tmp_path, changed(SMALL, model=model), "--dry-run")
    assert result.returncode
    assert fault in result.stdout


def test_several_nodes_without_slurm_are_one_line_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    model = {**TRAINED, "pretrain": {**TRAINED["pretrain"], "nodes": 2}}
    result = run(tmp_path, changed(SMALL, model=model))
    assert result.returncode
    assert "model.pretrain.nodes is 2, but jobs do not go to Slurm; run snakemake with --profile slurm" in result.stdout
    assert "Traceback" not in result.stdout
    assert not (tmp_path / "results").exists()
