"""Stores of a run's splits and of FASTA files: which sequences are in which."""

import json

import pytest
from embedome.catalog.table import read_catalog
from embedome.common.errors import UserError
from embedome.splits.split import split_catalog
from embedome.splits.split_methods import SplitSettings
from embedome.training.data import store_fasta, store_splits
from embedome.training.store import open_store
from helpers.filtered import random_proteins, run_filter, write_fasta

RECORDS = random_proteins(60, seed=4)
SEQUENCES = {sequence for _, sequence in RECORDS}


def sequences_in(folder):
    store = open_store(folder)
    text = bytes(store.residues).decode()
    return [text[store.offsets[n] : store.offsets[n + 1]] for n in range(len(store))]


def test_every_distinct_sequence_of_a_split_is_in_its_store(tmp_path):
    filtered = run_filter(tmp_path, write_fasta(tmp_path / "in.fasta", RECORDS))
    summary, splits = tmp_path / "split.json", tmp_path / "splits.parquet"
    plan = SplitSettings("hash", 0, 0.2, 0.2)
    split_catalog(filtered.catalog, filtered.summary, plan, splits=splits, summary=summary)
    store_splits(filtered.catalog, splits, summary, tmp_path / "data")
    counts = json.loads(summary.read_text())["splits"]
    for split in ("train", "val"):
        found = sequences_in(tmp_path / "data" / split)
        assert len(found) == len(set(found)) == counts[split]["sequences"] - counts[split]["duplicates"] > 0
    assert not set(sequences_in(tmp_path / "data" / "train")) & set(sequences_in(tmp_path / "data" / "val"))


def test_counts_that_do_not_close_fail(tmp_path):
    filtered = run_filter(tmp_path, write_fasta(tmp_path / "in.fasta", RECORDS))
    summary, splits = tmp_path / "split.json", tmp_path / "splits.parquet"
    plan = SplitSettings("hash", 0, 0.2, 0.2)
    split_catalog(filtered.catalog, filtered.summary, plan, splits=splits, summary=summary)
    account = json.loads(summary.read_text())
    account["splits"]["train"]["sequences"] += 1
    summary.write_text(json.dumps(account))
    with pytest.raises(UserError, match="distinct sequences of train"):
        store_splits(filtered.catalog, splits, summary, tmp_path / "data")


def test_a_fraction_is_held_out(tmp_path):
    store_fasta([write_fasta(tmp_path / "in.fasta", RECORDS)], 0.2, tmp_path / "data")
    train, val = (sequences_in(tmp_path / "data" / name) for name in ("train", "val"))
    assert len(val) == round(0.2 * len(SEQUENCES))
    assert set(train) | set(val) == SEQUENCES
    assert not set(train) & set(val)


def test_held_out_files_are_left_out_of_train(tmp_path):
    held_out = [("other", RECORDS[5][1]), ("new", "MKTAYIAKQRMKTAYIAKQR")]
    files = write_fasta(tmp_path / "in.fasta", RECORDS), write_fasta(tmp_path / "val.fasta", held_out)
    store_fasta(files[:1], list(files[1:]), tmp_path / "data")
    assert set(sequences_in(tmp_path / "data" / "val")) == {RECORDS[5][1], "MKTAYIAKQRMKTAYIAKQR"}
    assert set(sequences_in(tmp_path / "data" / "train")) == SEQUENCES - {RECORDS[5][1]}


def test_stores_of_the_same_files_are_left_and_of_others_refused(tmp_path):
    fasta = write_fasta(tmp_path / "in.fasta", RECORDS)
    store_fasta([fasta], 0.2, tmp_path / "run" / "data")
    before = (tmp_path / "run" / "data" / "train" / "store.json").stat().st_mtime_ns
    store_fasta([fasta], 0.2, tmp_path / "run" / "data")
    assert (tmp_path / "run" / "data" / "train" / "store.json").stat().st_mtime_ns == before
    for other, val in ((write_fasta(tmp_path / "other.fasta", RECORDS[1:]), 0.2), (fasta, 0.3)):
        with pytest.raises(UserError, match="run: a run on other files"):
            store_fasta([other], val, tmp_path / "run" / "data")


def test_nothing_to_hold_out_is_an_error(tmp_path):
    with pytest.raises(UserError, match="val: no sequence to train on"):
        store_fasta([write_fasta(tmp_path / "in.fasta", RECORDS[:3])], 0.01, tmp_path / "data")


def test_the_catalog_s_order_is_kept(tmp_path):
    filtered = run_filter(tmp_path, write_fasta(tmp_path / "in.fasta", RECORDS))
    expected = [
        row["sequence"]
        for table in read_catalog(filtered.catalog, ["sequence", "duplicate_of"])
        for row in table.to_pylist()
        if row["duplicate_of"] is None
    ]
    store_fasta([tmp_path / "in.fasta"], [write_fasta(tmp_path / "val.fasta", [("v", "ACDEF")])], tmp_path / "data")
    assert sequences_in(tmp_path / "data" / "train") == expected
