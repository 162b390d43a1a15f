"""The data card: what `datasets` makes of the folder, what it counts, and that other readers are not disturbed."""

import re

import datasets
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest
import yaml
from embedome.cli.main import main
from embedome.common.errors import UserError
from embedome.dataset.verify import verify_dataset
from embedome.embedding.settings import EmbedSettings
from embedome.merging.data_card import RecordCounts, make_card, make_configs
from embedome.models.registry import REGISTRY
from helpers import small_run as line
from helpers.merged_records import PLAN, RECORDS

SPLITS = {"train": "train", "validation": "val", "test": "test"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set with per-residue embeddings and skipped sequences."""
    made = line.prepare(tmp_path_factory.mktemp("card") / "line", RECORDS, plan=PLAN)
    made.embed(line.rough_model(made.folder / "model"), EmbedSettings(long_sequences="skip", per_residue=True))
    made.merge()
    return made


@pytest.fixture(scope="module")
def card(made):
    return (made.dataset / "_README.md").read_text(encoding="utf-8")


def by_duckdb(made, split):
    return line.rows(made.dataset / f"split={split}" / "*.parquet", "id, embedding")


def test_datasets_reads_the_folder_with_its_splits(made, tmp_path):
    found = datasets.load_dataset(str(made.dataset), cache_dir=str(tmp_path))
    assert found.keys() == SPLITS.keys()
    for name, split in SPLITS.items():
        expected = by_duckdb(made, split)
        assert found[name]["id"][:] == [row[0] for row in expected]
        assert found[name]["embedding"][:] == [list(row[1]) for row in expected]


def test_datasets_reads_residues_as_another_configuration(made, tmp_path):
    found = datasets.load_dataset(str(made.dataset), "residues", cache_dir=str(tmp_path))
    for name, split in SPLITS.items():
        expected = line.rows(made.dataset / "_residues" / f"split={split}" / "*.parquet", "id, residue_embeddings")
        assert found[name]["id"][:] == [row[0] for row in expected]
        assert [len(each) for each in found[name]["residue_embeddings"]] == [len(row[1]) for row in expected]


def test_the_card_has_the_same_configuration_for_the_hub(made, card):
    """On the Hub, as README.md."""
    _, front, _ = card.split("---\n", 2)
    alone = (made.dataset / ".huggingface.yaml").read_text()
    assert yaml.safe_load(front)["configs"] == yaml.safe_load(alone)["configs"]
    for config in yaml.safe_load(front)["configs"]:
        for entry in config["data_files"]:
            assert list(made.dataset.glob(entry["path"]))


def test_the_folder_is_read_as_before(made):
    rows = line.rows(made.dataset / "split=*" / "*.parquet", "id")
    assert len(pd.read_parquet(made.dataset)) == len(ds.dataset(made.dataset).to_table()) == len(rows)
    assert pl.scan_parquet(made.dataset / "split=*" / "*.parquet").select("id").collect().height == len(rows)


def test_the_card_counts_what_the_files_hold(made, card):
    found = line.rows(made.dataset / "split=*/*.parquet", "split, state, count(*)", "group by all")
    counts = {(split, state): number for split, state, number in found}
    skipped = dict(line.rows(made.dataset / "_skipped.parquet", "split, count(*)", "group by all"))
    header, *_ = [row for row in card.splitlines() if row.startswith("| split")]
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    for name, split in SPLITS.items():
        (row,) = [row for row in card.splitlines() if row.startswith(f"| {name} |")]
        found = dict(zip(columns, (cell.strip() for cell in row.strip("|").split("|")), strict=True))
        mine = {state: n for (where, state), n in counts.items() if where == split}
        assert int(found["rows"]) == sum(mine.values())
        assert {state: int(found[state]) for state in mine} == mine
        assert int(found["skipped"]) == skipped.get(split, 0)
    assert f"too-long {sum(skipped.values())}" in card


def test_programs_of_the_card_run_in_the_folder(made, card, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(made.dataset)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    programs = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(programs) == 4
    for program in programs:
        exec(program, {})
    assert capsys.readouterr().out


def test_verify_covers_the_card_and_takes_a_readme_as_a_warning(made, tmp_path, capsys):
    copy = made.copy(tmp_path / "line")
    (copy.dataset / "README.md").write_bytes((copy.dataset / "_README.md").read_bytes())
    main(["verify", str(copy.dataset)])
    assert "README.md is not of the data set" in capsys.readouterr().err
    for name in ("_README.md", ".huggingface.yaml"):
        before = (copy.dataset / name).read_bytes()
        line.flip(copy.dataset / name, 20)
        with pytest.raises(UserError, match=f"{name}: changed"):
            verify_dataset(copy.dataset)
        (copy.dataset / name).unlink()
        with pytest.raises(UserError, match=f"{name}: missing"):
            verify_dataset(copy.dataset)
        (copy.dataset / name).write_bytes(before)


def test_a_second_merge_has_the_same_bytes(made, tmp_path):
    made.merge(tmp_path / "again")
    for name in ("_README.md", ".huggingface.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (made.dataset / name).read_bytes()


MANIFEST = {
    "rows": 3,
    "dimension": 4,
    "splits": {
        "val": {"rows": 0, "states": {}, "skipped": {}, "files": [], "residues": []},
        "train": {"rows": 3, "states": {"embedded": 3}, "skipped": {}, "files": [{"file": "x"}], "residues": []},
    },
    "provenance": {
        "model": {"name": "ankh-base", "trained": True},
        "pooling": ["mean", "max"],
        "dtype": "bfloat16",
        "source": {"release": {"database": "uniref50", "release": "2026_02"}, "inputs": []},
    },
}


def test_what_is_known_of_the_run_is_said():
    records = RecordCounts.of_summaries(
        {"read": 10, "rejected": {"too-short": 4}}, {"rejected": {"leak": {"sequences": 2, "duplicates": 1}}}
    )
    card = make_card(MANIFEST, records)
    assert "# Embeddings of uniref50 2026_02 by ankh-base" in card
    assert "`embedding` (mean), `embedding_max` (max), 4 numbers of float16 each" in card
    assert "10 records were read, 4 of them kept and 6 rejected (leak 2, too-short 4)." in card
    assert f"- Weights of the model: {REGISTRY['ankh-base'].licence}" in card
    assert "CC BY 4.0" in card
    assert "- dtype: bfloat16" in card
    assert "biological meaning" not in card


def test_of_a_split_without_files_nothing_is_said():
    """Hugging Face fails on a pattern that matches no file."""
    (config,) = yaml.safe_load(make_configs(MANIFEST["splits"]))["configs"]
    assert [entry["split"] for entry in config["data_files"]] == ["train"]
    assert yaml.safe_load(make_configs({})) == {"configs": []}
