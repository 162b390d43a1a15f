"""The annotate stage, run by Snakemake on the demo, whose families are known."""

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys

import duckdb
import pytest
from embedome.cli.annotate import summary_lines
from helpers.workflow_runs import ROOT, SMALL, changed, run, run_and_kill

# The whole module runs the workflow once: minutes.
pytestmark = pytest.mark.slow

LABELS = "resources/demo/mirror/families.tsv.gz"
ANNOTATE = {
    "labels": LABELS,
    "label_column": "family",
    "neighbours": 1,
    "hold_out": ["val", "test"],
    "max_identity": 0.8,
}
CONFIG = changed(SMALL, annotate=ANNOTATE)
FOLDER = "results/annotation/esm1nv-demo"


@pytest.fixture(scope="module")
def annotated(demo):
    """The demo's folder after a run with an annotation."""
    result = run(demo, CONFIG)
    assert result.returncode == 0, result.stdout
    return demo


def files(folder):
    """Every file of an annotation."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if path.name != ".snakemake_timestamp"}


def test_each_shard_is_annotated_and_the_account_adds_up(annotated):
    summary = json.loads((annotated / FOLDER / "_summary.json").read_text())
    ledger = json.loads((annotated / "results/ledger.json").read_text())
    for split, shards in SMALL["shard"].items():
        found = summary["splits"][split]
        assert len(list((annotated / FOLDER / f"split={split}").glob("part-*.parquet"))) == shards
        assert found["queries"] == sum(ledger["splits"][split]["states"].values())
        assert found["queries"] == found["annotated"] + found["without_hit"] + found["below_min_reliability"]
    counts = summary["counts"]
    assert counts["ids"] == 300
    assert counts["ids"] == sum(counts[name] for name in ("lookup", "held_out", "skipped", "not_in_data_set"))
    assert counts["not_in_data_set"] == sum(ledger["rejected"].values())
    assert counts["lookup"] == summary["splits"]["train"]["queries"]
    assert sum(split["left_out"].get("above_max_identity", 0) for split in summary["splits"].values()) > 0


def test_the_score_is_what_duckdb_counts_and_beats_both_baselines(annotated):
    """An untrained model sees composition, which families of the demo differ in: its neighbours are no random ones."""
    score = json.loads((annotated / FOLDER / "_summary.json").read_text())["score"]
    with gzip.open(annotated / LABELS, "rt") as stream:
        family = {row["id"]: row["family"] for row in csv.DictReader(stream, delimiter="\t")}
    files = f"{annotated}/{FOLDER}/split=*/*.parquet"
    first = duckdb.sql(f"select id, label, split from '{files}' where rank = 1").fetchall()
    held_out = [(name, label) for name, label, split in first if split != "train"]
    right = sum(family[name] == label for name, label in held_out)
    assert score["proteins"] == len(held_out) > 40
    accuracy = score["accuracy"]
    assert accuracy["carried_over"] == pytest.approx(right / len(held_out), abs=1e-6)
    train = duckdb.sql(f"select id from '{annotated}/results/dataset/esm1nv-demo/split=train/*.parquet'").fetchall()
    families = [family[name] for (name,) in train]
    share = {name: families.count(name) / len(families) for name in set(families)}
    expected = sum(share.get(family[name], 0) for name, _ in held_out) / len(held_out)
    assert accuracy["random_neighbour"] == pytest.approx(expected, abs=1e-6)
    assert accuracy["carried_over"] > 1.5 * max(accuracy["commonest_label"], accuracy["random_neighbour"])


def test_a_killed_run_ends_in_the_same_bytes_and_a_second_one_does_nothing(annotated, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(annotated, folder)
    shutil.rmtree(folder / FOLDER)
    for log in ("annotate_lookup_*.log", "annotate/*/*/*.log"):
        shutil.rmtree(folder / "results" / "logs")
        assert run_and_kill(folder, CONFIG, log, seconds=0.1), f"the run ended before {log} was there"
    result = run(folder, CONFIG, cores=1)
    assert result.returncode == 0, result.stdout
    assert files(folder / FOLDER) == files(annotated / FOLDER)
    assert "Nothing to be done" in run(folder, CONFIG).stdout


def test_the_command_line_gives_the_same_rows(annotated, tmp_path):
    options = ["-l", LABELS, "--label-column", "family", "--hold-out", "val", "test", "--threads", "1"]
    options += ["-k", "1", "--max-identity", "0.8", "--catalog", "results/catalog", "--json", "-o", tmp_path / "out"]
    result = subprocess.run(
        [sys.executable, "-m", "embedome", "annotate", "results/dataset/esm1nv-demo", *options],
        cwd=annotated,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    # A file for each of the data set's, where the workflow makes one for each shard.
    of_command, of_workflow = (
        duckdb.sql(f"from read_parquet('{folder}/split=*/*.parquet') order by split, id, rank, label").fetchall()
        for folder in (tmp_path / "out", annotated / FOLDER)
    )
    assert of_command == of_workflow
    assert len(of_command) > 200
    assert json.loads(result.stdout) == json.loads((annotated / FOLDER / "_summary.json").read_text())


def test_the_summary_in_words_has_the_score_beside_the_baselines(annotated):
    summary = json.loads((annotated / FOLDER / "_summary.json").read_text())
    score = summary["score"]
    *_, line = summary_lines(summary)
    assert line.startswith(f"held-out labels: {score['proteins']} proteins, accuracy ")
    for name, values in score["accuracy"].items():
        assert f"{'' if name == 'carried_over' else name.replace('_', ' ') + ' '}{values:.3f}" in line
    assert f"Fmax {score['fmax']['carried_over']['fmax']:.3f} (commonest label" in line
    both = summary | {"score": score | {"namespaces": {"cellular_component": score, "molecular_function": None}}}
    assert summary_lines(both)[-1] == line.replace("held-out labels", "of cellular_component")


def test_labels_that_the_workflow_makes_may_be_asked_for_before_they_are_there(tmp_path):
    result = run(tmp_path, CONFIG, "--dry-run", "--quiet", "rules")
    assert result.returncode == 0, result.stdout
    assert "annotate_lookup" in result.stdout


def test_without_labels_nothing_is_annotated(tmp_path):
    result = run(tmp_path, SMALL, "--dry-run", "--quiet", "rules")
    assert result.returncode == 0, result.stdout
    assert "annotate" not in result.stdout
