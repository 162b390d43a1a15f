"""Rows are found by id, and by the accession in an id; exact ids come first, and ambiguous ones are named."""

import random

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from embedome.cli.main import main
from embedome.common.errors import UserError
from embedome.dataset import open_dataset
from embedome.dataset.format import embedding_metadata
from embedome.dataset.part_file import write_part
from embedome.parquet.vectors import GROUP_ROWS
from helpers.made_dataset import PROVENANCE, random_rows
from helpers.written_dataset import Protein, write_dataset

IDS = {
    "train": [
        "UniRef100_P10004",
        "UniRef50_P10001",
        "UniRef50_P100012",
        "UniRef90_UPI0000000001",
        "sp|P10000|PR0_HUMAN",
        "sp|P10004|PR4_HUMAN",
        "tr|P10002|PR2_HUMAN",
        "tr|P10003-2|PR3_HUMAN",
    ],
    "val": ["P10002", "x|P10005|y"],
    "test": ["sp|P10006|PR6_HUMAN"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three splits, files of three rows, and one protein that was skipped."""
    rng = np.random.default_rng(0)
    proteins = [
        Protein(name, split, f"M{'A' * len(name)}", rng.normal(size=4))
        for split, names in IDS.items()
        for name in names
    ]
    folder = write_dataset(tmp_path_factory.mktemp("ids"), proteins, 4, file_rows=3)
    skipped = {"id": ["sp|P10009|LONG_HUMAN"], "digest": ["SQ.x"], "length": [9], "reason": ["too-long"]}
    opened = open_dataset(folder / "dataset")
    return type(opened)(opened.folder, opened.manifest, skipped=pa.table(skipped))


@pytest.mark.parametrize(
    ("accession", "name"),
    [
        ("P10000", "sp|P10000|PR0_HUMAN"),
        ("P10001", "UniRef50_P10001"),
        ("P100012", "UniRef50_P100012"),
        ("P10003-2", "tr|P10003-2|PR3_HUMAN"),
        ("P10006", "sp|P10006|PR6_HUMAN"),
        ("UPI0000000001", "UniRef90_UPI0000000001"),
        # An exact id, though it is an accession of another one too.
        ("P10002", "P10002"),
    ],
)
def test_an_accession_finds_its_id(data, accession, name):
    assert data.rows([accession], ["id"])["id"].to_pylist() == [name]
    assert np.array_equal(data.get([accession, name, accession]), data.get([name] * 3))


def test_order_and_repeats_are_those_asked_for(data):
    asked = ["P10006", "sp|P10000|PR0_HUMAN", "P10000", "P10002", "P10001", "P10006"]
    found = data.rows(asked, ["id"])["id"].to_pylist()
    one, six = "sp|P10000|PR0_HUMAN", "sp|P10006|PR6_HUMAN"
    assert found == [six, one, one, "P10002", "UniRef50_P10001", six]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("P10004", "'P10004' is the accession of 2 ids, 'UniRef100_P10004', 'sp|P10004|PR4_HUMAN'; name one"),
        ("P10005", "no row has the id 'P10005', nor one of UniProtKB or UniRef with that accession"),
        ("P10003", "no row has the id 'P10003'"),
        ("P1000", "no row has the id 'P1000'"),
        ("P10009", "'P10009' (sp|P10009|LONG_HUMAN) has no vector, it was skipped (too-long)"),
        ("sp|P10009|LONG_HUMAN", "'sp|P10009|LONG_HUMAN' has no vector, it was skipped (too-long)"),
    ],
)
def test_what_is_not_one_id_is_named(data, name, message):
    with pytest.raises(UserError) as error:
        data.get(["P10000", name])
    assert str(error.value).startswith(f"{data.folder}: ")
    assert message in str(error.value)


def test_what_was_taken_for_an_accession_is_said(data, caplog):
    caplog.set_level("INFO")
    data.get(["P10000", "P10002"])
    assert "1 taken as accessions: 'P10000' is 'sp|P10000|PR0_HUMAN'" in caplog.text


def test_accessions_are_found_in_any_row_group(tmp_path):
    """In a file of three row groups, by comparison with a loop over all ids."""
    rng = random.Random(0)
    numbers = rng.sample(range(10**6), 2 * GROUP_ROWS + 100)
    prefixes = ["UniRef100_{}", "UniRef50_{}", "sp|{}|N", "tr|{}|N"]
    accessions = [f"Q{number}" for number in numbers]
    ids = sorted(rng.choice(prefixes).format(accession) for accession in accessions)
    table = random_rows(0, len(ids), 4)
    table = table.set_column(0, table.schema.field("id"), pa.array(ids))
    write_part(tmp_path / "x.parquet", table, embedding_metadata(PROVENANCE))
    data = open_dataset(tmp_path / "x.parquet")
    ends = [find_end(ids[row]) for row in (0, -1, GROUP_ROWS - 1, GROUP_ROWS, 2 * GROUP_ROWS)]
    asked = rng.sample(accessions, 200) + ends
    expected = {find_end(name): name for name in ids}
    assert data.rows(asked, ["id"])["id"].to_pylist() == [expected[accession] for accession in asked]


def find_end(name):
    return name.split("|")[1] if "|" in name else name.split("_")[1]


@pytest.mark.parametrize(
    "form",
    [tuple, iter, np.array, pa.array, lambda ids: pa.chunked_array([ids[:1], ids[1:]]), pd.Series],
)
def test_ids_may_be_any_sequence(data, form):
    ids = ["P10002", "UniRef50_P10001"]
    assert np.array_equal(data.get(form(ids)), data.get(ids))
    assert data.rows(list(pa.array(ids)), ["id"])["id"].to_pylist() == ids


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("P10000", "ids are one text, 'P10000'; expected a list of ids: ['P10000']"),
        ([b"P10000"], "an id is b'P10000'; expected a text"),
        ([None], "an id is None; expected a text"),
        ([["P10000"]], "an id is ['P10000']; expected a text"),
        (np.array([1, 2]), "an id is 1; expected a text"),
        (7, "ids are 7; expected a list of texts"),
    ],
)
def test_other_ids_are_one_line(data, ids, message):
    for read in (data.get, data.rows):
        with pytest.raises(UserError) as error:
            read(ids)
        assert message in str(error.value)


def test_columns_that_are_one_text_are_refused_everywhere(data):
    for read in (
        lambda: data.rows(["P10002"], "length"),
        lambda: next(data.iter_batches(columns="length")),
        lambda: next(data.tables("length")),
        lambda: data.to_torch(columns="length"),
        lambda: data.to_dask_frame(columns="length"),
    ):
        with pytest.raises(UserError, match=r"columns are one text, 'length'; expected a list: \['length'\]"):
            read()


def test_messages_name_the_file_and_not_its_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_part(tmp_path / "x.parquet", random_rows(0, 3, 4), embedding_metadata(PROVENANCE))
    for arguments in (
        ["get", "x.parquet", "nobody"],
        ["export", "x.parquet", "o.npy", "--format", "npy", "--split", "a"],
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert " ERROR x.parquet: no " in capsys.readouterr().err


def test_the_command_prints_ids_as_the_data_set_has_them(tmp_path, capsys):
    table = random_rows(0, 1, 4)
    table = table.set_column(0, table.schema.field("id"), pa.array(["sp|P10000|PR0_HUMAN"]))
    write_part(tmp_path / "x.parquet", table, embedding_metadata(PROVENANCE))
    main(["get", str(tmp_path / "x.parquet"), "P10000"])
    name, *numbers = capsys.readouterr().out.rstrip("\n").split("\t")
    assert name == "sp|P10000|PR0_HUMAN"
    assert np.array_equal(np.array(numbers, np.float16), table["embedding"][0].values.to_numpy())
