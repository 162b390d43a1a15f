"""Stores: what is in them is what catalog and splits say, in order, without duplicates; damage is told."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from embedome.catalog.table import read_catalog
from embedome.common.errors import UserError
from embedome.common.terms import SPLITS
from embedome.splits.split_table import write_splits
from embedome.training.store import open_store, sequences_of_catalog, sequences_of_split, write_store
from helpers.filtered import random_proteins, run_filter, small_groups, write_fasta
from helpers.stores import random_sequences, store_of

DISTINCT = {sequence for _, sequence in random_proteins(37)}


def sequences_in(store):
    text = bytes(store.residues).decode()
    return [text[begin:end] for begin, end in zip(store.offsets[:-1], store.offsets[1:], strict=True)]


@pytest.fixture
def filtered(tmp_path, monkeypatch):
    """A catalog of 40 records in small row groups, some of them duplicates."""
    small_groups(monkeypatch)
    records = random_proteins(37)
    records += [(f"zz{number}", records[number][1]) for number in range(3)]
    return run_filter(tmp_path, write_fasta(tmp_path / "in.fasta", records))


def test_a_split_s_distinct_sequences_in_the_order_of_the_catalog(filtered, tmp_path):
    catalog = filtered.catalog
    rows = [row for table in read_catalog(catalog, ["id", "sequence", "duplicate_of"]) for row in table.to_pylist()]
    codes = np.array([number % 3 for number in range(len(rows))], np.int8)
    # A duplicate is in the split of its canonical id, as the split stage has it.
    places = {row["id"]: place for place, row in enumerate(rows)}
    for place, row in enumerate(rows):
        codes[place] = codes[places[row["duplicate_of"] or row["id"]]]
    write_splits(catalog, codes, tmp_path / "splits.parquet")
    found = {}
    for code, split in enumerate(SPLITS):
        columns = sequences_of_split(catalog, tmp_path / "splits.parquet", split)
        found[split] = sequences_in(write_store(tmp_path / split, columns, {}))
        expected = [
            row["sequence"] for row, own in zip(rows, codes, strict=True) if own == code and row["duplicate_of"] is None
        ]
        assert found[split] == expected
    assert sum(map(len, found.values())) == len(DISTINCT)


def test_a_catalog_s_distinct_sequences(filtered, tmp_path):
    store = write_store(tmp_path / "store", sequences_of_catalog(filtered.catalog), {})
    found = sequences_in(store)
    assert len(found) == len(DISTINCT) < 37
    assert set(found) == DISTINCT


def test_a_store_tells_what_is_in_it(tmp_path):
    sequences = random_sequences(50)
    store = store_of(tmp_path / "store", sequences)
    about = json.loads((tmp_path / "store" / "store.json").read_text())
    text = "".join(sequences)
    assert (about["sequences"], about["residues"], about["source"]) == (50, len(text), {"name": "test"})
    assert about["letters"] == {letter: text.count(letter) for letter in sorted(set(text))}
    assert about["sha256"]["residues.bin"] == hashlib.sha256(text.encode()).hexdigest()
    assert (
        about["sha256"]["offsets.bin"] == hashlib.sha256((tmp_path / "store" / "offsets.bin").read_bytes()).hexdigest()
    )
    assert store.lengths(np.array([3, 49])).tolist() == [len(sequences[3]), len(sequences[49])]
    assert store.letters[ord("W")] == text.count("W")


def test_the_digest_is_that_of_the_sequences_and_where_they_end(tmp_path):
    one = store_of(tmp_path / "one", ["ACD", "EF"])
    assert store_of(tmp_path / "pieces", ["ACD", "EF"], pieces=1).sha256 == one.sha256
    assert store_of(tmp_path / "other", ["AC", "DEF"]).sha256 != one.sha256


def test_a_slice_of_a_column_is_written_as_it_is(tmp_path):
    column = pa.array(["AAA", "CC", "D", "EEEE"], pa.large_string())
    assert sequences_in(write_store(tmp_path / "store", [column[1:3], column[3:]], {})) == ["CC", "D", "EEEE"]


def test_an_empty_split_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"train: no sequence to train on"):
        write_store(tmp_path / "store", [pa.array([], pa.large_string())], {"name": "train"})
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["residues.bin", "offsets.bin"])
def test_a_file_that_is_not_whole_is_an_error(tmp_path, name):
    store_of(tmp_path / "store", ["ACD", "EF"])
    with open(tmp_path / "store" / name, "r+b") as handle:
        handle.truncate(4)
    with pytest.raises(UserError, match=f"{name}: not whole; delete the folder"):
        open_store(tmp_path / "store")


def test_a_folder_that_is_no_store_is_not_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'thesis\.txt'"):
        store_of(tmp_path / "store", ["ACD"])
    assert (tmp_path / "store" / "thesis.txt").read_text() == "mine"


def test_residues_are_mapped_and_not_read(tmp_path):
    store = store_of(tmp_path / "store", ["ACD", "EF"])
    assert isinstance(store.residues, np.memmap)
    assert isinstance(store.offsets, np.memmap)
    assert not store.residues.flags.writeable
