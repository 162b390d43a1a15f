"""A folder that holds results of another source: nothing is written over before that is said."""

import json
import logging

import pytest
import yaml
from embedome.common.errors import UserError
from embedome.workflow.other_results import check_other_results
from embedome.workflow.paths import Paths
from helpers.paths import ROOT

CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
UNIREF50 = {"release": "2024_05", "database": "uniref50"}
FASTA = {"kind": "fasta", "fasta": ["data/a.fasta", "b.fasta"]}


def check(folder, account_of, files, source):
    summary = folder / "results" / "summaries" / "filter.json"
    summary.parent.mkdir(parents=True)
    summary.write_text(json.dumps({"release": account_of, "inputs": [{"file": name} for name in files]}))
    config = CONFIG | {"source": CONFIG["source"] | source}
    check_other_results(config, Paths(config, place=lambda path: f"{folder}/{path}"))


@pytest.mark.parametrize(
    ("release", "files", "source", "said"),
    [
        (UNIREF50, ["x"], FASTA, "the database uniref50; this run is of files a.fasta, b.fasta"),
        (
            UNIREF50,
            ["x"],
            {"kind": "release", "database": "uniref90"},
            "uniref50; this run is of the database uniref9",
        ),
        (UNIREF50, ["x"], {"kind": "demo"}, "the database uniref50; this run is of the demo,"),
        (None, ["c.fasta"], FASTA, "files c.fasta; this run is of files a.fasta, b.fasta"),
        (None, ["c.fasta"], {"kind": "url", "database": "ecoli"}, "files c.fasta; this run is of the database ecoli"),
    ],
)
def test_another_source_s_results_stop_the_run(tmp_path, release, files, source, said):
    with pytest.raises(UserError) as caught:
        check(tmp_path, release, files, source)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/results: holds results of ")
    assert said in message
    assert "To keep both, run in another folder (snakemake --directory OTHER)" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("release", "files", "source"),
    [
        (UNIREF50, ["x"], {"kind": "release", "release": "2025_01"}),
        (UNIREF50 | {"database": "ecoli"}, ["x"], {"kind": "url", "database": "ecoli"}),
        (None, ["a.fasta", "old/c.fasta"], FASTA),
        ({"release": "embedome-demo-1", "database": "uniref50"}, ["x"], {"kind": "demo"}),
    ],
)
def test_a_later_release_and_one_more_file_are_the_same_source(tmp_path, caplog, release, files, source):
    check(tmp_path, release, files, source)
    assert not caplog.records


def test_the_demo_is_written_over_with_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        check(tmp_path, {"release": "embedome-demo-1", "database": "uniref50"}, ["x"], FASTA)
    assert "holds results of the demo, which this run of files a.fasta, b.fasta writes over" in caplog.text


def test_a_folder_without_results_is_no_fault(tmp_path):
    check_other_results(CONFIG, Paths(CONFIG, place=lambda path: f"{tmp_path}/{path}"))
