"""Where files are, for configurations of each kind."""

import copy

import pytest
import yaml
from embedome.workflow.paths import FAMILIES, Paths
from helpers.paths import ROOT

CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())


def paths(**sections: dict) -> Paths:
    """The paths of config.yaml with some keys changed."""
    config = copy.deepcopy(CONFIG)
    for name, keys in sections.items():
        config[name] |= keys
    return Paths(config)


@pytest.mark.parametrize(
    ("source", "files", "release"),
    [
        ({"kind": "demo"}, ["resources/demo/uniref50/uniref50.fasta.gz"], "resources/demo/uniref50/release.json"),
        # What the other kinds are asked for does not reach the demo.
        (
            {"kind": "demo", "database": "uniref90", "format": "xml", "release": 202405},
            ["resources/demo/uniref50/uniref50.fasta.gz"],
            "resources/demo/uniref50/release.json",
        ),
        (
            {"kind": "release", "database": "uniref90"},
            ["resources/release/uniref90/uniref90.fasta.gz"],
            "resources/release/uniref90/release.json",
        ),
        (
            {"kind": "release", "format": "xml"},
            ["resources/release-xml/uniref50/uniref50.xml.gz"],
            "resources/release-xml/uniref50/release.json",
        ),
        # YAML takes 2024_05 for a number.
        (
            {"kind": "release", "release": 202405},
            ["resources/release-2024_05-xml/uniref50/uniref50.xml.gz"],
            "resources/release-2024_05-xml/uniref50/release.json",
        ),
        (
            {"kind": "url", "database": "ecoli"},
            ["resources/url/ecoli/sequences"],
            "resources/url/ecoli/release.json",
        ),
        ({"kind": "fasta", "fasta": ["a.faa", "b.faa.gz"]}, ["a.faa", "b.faa.gz"], []),
    ],
)
def test_each_kind_of_source_has_its_files(source, files, release):
    found = paths(source=source)
    assert found.sequence_files == files
    assert found.release == release
    assert found.families == (FAMILIES if source["kind"] == "demo" else [])


def test_all_shards_are_those_that_are_configured():
    found = paths(shard={"val": 1, "test": 2, "train": 0}).all_shards("{split}/{shard}")
    assert found == ["val/00000", "test/00000", "test/00001"]


def test_optional_stages_are_asked_for_where_they_are_switched_on():
    plain = paths()
    assert plain.later_rejects == plain.leakage == plain.reuse_files == plain.earlier_manifest == []
    assert plain.annotation == plain.annotated_parts == plain.sequences_to_compare == []
    assert plain.drawn("splits.parquet") == "results/splits.parquet"
    assert plain.targets == [
        "results/dataset/esm1nv-demo/_manifest.json",
        "results/ledger.json",
        "results/overview/esm1nv-demo.html",
    ]
    rich = paths(
        cluster={"as": "filter"},
        leakage={"measure": True, "drop_above": 0.5},
        reuse={"dataset": "old/data"},
        annotate={"labels": "labels.tsv", "max_identity": 0.9},
    )
    assert rich.later_rejects == ["results/rejects_redundant.parquet", "results/rejects_leak.parquet"]
    assert rich.leakage == "results/summaries/leakage.json"
    assert rich.drawn("splits.parquet") == "results/drawn/splits.parquet"
    assert rich.reuse_files == ["results/reused.parquet", "results/summaries/reuse.json"]
    assert rich.earlier_manifest == "old/data/_manifest.json"
    assert rich.annotated_parts[0] == "results/annotation/esm1nv-demo/split=val/part-00000.parquet"
    assert rich.sequences_to_compare == "results/catalog"
    assert rich.targets[3:] == ["results/annotation/esm1nv-demo/_summary.json"]


def test_each_task_has_a_job_and_all_have_one_table():
    tasks = [
        {"name": "gb1", "data": ["gb1.zip"]},
        {"name": "own", "data": ["six.fasta", "tables/kinds.tsv.gz"]},
        {"name": "ss3_casp12", "data": ["flip", "test=CASP12.csv"]},
    ]
    found = paths(evaluate={"tasks": tasks})
    folder = "results/evaluation"
    assert found.evaluations == [f"{folder}/esm1nv-demo/{name}.json" for name in ("gb1", "kinds", "ss3_casp12")]
    assert found.evaluated["kinds"] == tasks[1]
    assert found.evaluation_files("ss3_casp12") == ["flip", "CASP12.csv"]
    assert found.evaluation_table == f"{folder}/table.parquet"
    benchmarks = found.benchmarks([("evaluate", "b/evaluate/{model}/{task}.tsv")])
    assert benchmarks["evaluate"] == [f"b/evaluate/esm1nv-demo/{name}.tsv" for name in ("gb1", "kinds", "ss3_casp12")]
    assert paths().evaluations == paths().evaluation_table == []


def test_the_model_is_made_or_looked_at(tmp_path):
    made = paths(
        model={
            "directory": "m",
            "untrained": {"like": "esm2-8m", "layers": 2, "hidden": None, "seed": 1},
            "pretrain": None,
        }
    )
    assert made.weights == ["m/model.safetensors"]
    assert made.vocabulary == ["m/tokenizer.json"]
    assert made.untrained_model == {"like": "esm2-8m", "sizes": {"layers": 2}, "seed": 1}
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    )
    given = paths(model={"directory": str(tmp_path), "pretrain": None})
    assert sorted(given.weights) == sorted(str(path) for path in tmp_path.iterdir())
    for name in ("added_tokens.json", "spiece.model"):
        (tmp_path / name).write_bytes(b"")
    assert given.vocabulary == [str(tmp_path / "added_tokens.json"), str(tmp_path / "spiece.model")]


def test_benchmarks_are_those_of_rules_that_run():
    found = paths(source={"kind": "url", "database": "x"}, shard={"val": 1, "test": 0, "train": 1}).benchmarks(
        [
            ("make_demo", "b/make_demo.tsv"),
            ("download", "b/{database}.tsv"),
            ("download_url", "b/url_{database}.tsv"),
            ("embed", "b/{model}/{split}/{shard}.tsv"),
        ]
    )
    assert found == {
        "download_url": ["b/url_x.tsv"],
        "embed": ["b/esm1nv-demo/val/00000.tsv", "b/esm1nv-demo/train/00000.tsv"],
    }
