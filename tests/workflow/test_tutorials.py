"""docs/tutorials/, each followed block by block as a user would; what a user relies on is there afterwards."""

import csv
import json
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from embedome.dataset import open_dataset
from helpers.documents import blocks, copy_checkout, follow, shell_lines
from helpers.paths import ROOT

pytestmark = pytest.mark.slow

FOLDER = ROOT / "docs" / "tutorials"
SMALL = "--layers 1 --hidden 16 --heads 2 --feed-forward 16"
# What runs in place of lines of cluster.md, and why.
INSTEAD = {
    # The test is in a copy of this checkout, whose environment is this one.
    "git clone": "",
    "cd embedome": "",
    "make setup": "",
    "source .venv": "",
    # Gigabytes, and a network: the same architecture with random weights.
    "embedome models fetch": f"embedome models init esm2-650m models/esm2-650m {SMALL}",
    # A cluster: the same run on this machine. tests/slurm runs it under Slurm.
    "tmux": "snakemake --cores 2 --nolock --configfile my.yaml",
}


def families(rows: list[tuple[str, str]]) -> float:
    """Return the fraction of pairs of ids whose first letters, the families, are equal."""
    return sum(mine[0] == other[0] for mine, other in rows) / len(rows)


def scores(folder: Path) -> dict[str, float]:
    """Return accuracy by method."""
    with open(folder / "evaluation" / "table.tsv") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["metric"] == "accuracy"]
    return {row["method"]: float(row["value"]) for row in rows}


def test_own_fasta(tmp_path):
    follow(tmp_path, (FOLDER / "own-fasta.md").read_text(), {})
    assert len(open_dataset(tmp_path / "vectors.parquet")) == 240
    assert (tmp_path / "map.png").stat().st_size > 10_000
    table = pads.dataset(tmp_path / "annotation", partitioning="hive").to_table(filter=pads.field("rank") == 1)
    found = list(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))
    # Six families: by chance it would be a sixth.
    assert len(found) == 240
    assert families(found) > 0.5
    assert scores(tmp_path)["frozen"] > 0.9


def test_own_model(tmp_path):
    follow(tmp_path, (FOLDER / "own-model.md").read_text(), {})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["validation"]["residue_loss"] < summary["baselines"]["composition"]
    assert {"frozen", "random", "composition"} <= scores(tmp_path).keys()
    assert open_dataset(tmp_path / "vectors.parquet").manifest["provenance"]["model"]["trained"]
    adapted = open_dataset(tmp_path / "tuned.parquet").manifest["provenance"]["model"]
    assert (
        adapted["weights_sha256"]
        != open_dataset(tmp_path / "vectors.parquet").manifest["provenance"]["model"]["weights_sha256"]
    )


def test_cluster(tmp_path):
    folder = copy_checkout(tmp_path / "a checkout" / "embedome")
    proteins = [f">P{number}\n{'MKTAYIAKQR' * 3}{'ACDEFGHIKL'[number % 10]}{number * 'A'}\n" for number in range(60)]
    (folder / "proteins.fasta").write_text("".join(proteins))
    follow(folder, (FOLDER / "cluster.md").read_text(), INSTEAD)
    data = open_dataset(folder / "results" / "dataset" / "esm2-650m")
    assert len(data) == 60
    assert {split: data.manifest["splits"][split]["rows"] for split in data.splits} == {
        "val": 3,
        "test": 3,
        "train": 54,
    }
    assert json.loads((folder / "results" / "ledger.json").read_text())["read"] == 60


def test_all_that_is_not_run_is_in_the_tutorial():
    lines = [line for _, block in blocks((FOLDER / "cluster.md").read_text(), "sh") for line in shell_lines(block)]
    assert [beginning for beginning in INSTEAD if not any(line.startswith(beginning) for line in lines)] == []
