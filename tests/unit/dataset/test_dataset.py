"""Reading a data set: with `open_dataset`, and with other libraries that know nothing of embedome."""

import json
import random

import dask.dataframe
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from embedome.common.errors import UserError
from embedome.dataset import open_dataset
from embedome.embedding.settings import EmbedSettings
from embedome.sequences.headers import parse_description
from helpers.small_run import prepare, random_records, rough_model, vectors


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A data set of 60 sequences with duplicates; those above 62 residues are skipped."""
    folder = tmp_path_factory.mktemp("dataset")
    records = random_records(5, [*range(30, 60), *range(60, 75), *range(20, 35)])
    records += [(f"copy{i}", records[i][1]) for i in range(0, 60, 9)]
    line = prepare(folder / "run", records)
    line.embed(rough_model(folder / "model"), EmbedSettings(long_sequences="skip"))
    line.merge()
    return line


@pytest.fixture(scope="module")
def data(line):
    return open_dataset(line.dataset)


@pytest.fixture(scope="module")
def truth(line):
    """Vectors by id and split, read by DuckDB."""
    return {split: vectors(line.dataset / f"split={split}" / "*.parquet") for split in ("val", "test", "train")}


@pytest.fixture(scope="module")
def everything(truth):
    return {name: vector for split in truth.values() for name, vector in split.items()}


def test_matrix_yields_every_row_of_a_split_one_file_at_a_time(data, truth, line):
    for split, expected in truth.items():
        pieces = list(data.matrix(split))
        assert len(pieces) == len(list((line.dataset / f"split={split}").glob("*.parquet")))
        found = {}
        for ids, matrix in pieces:
            assert matrix.dtype == np.float16
            assert matrix.shape == (len(ids), data.dimension)
            assert ids == sorted(ids)
            found |= dict(zip(ids, matrix, strict=True))
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_matrix_of_all_splits_has_every_row(data, everything):
    ids = [name for names, _ in data.matrix() for name in names]
    assert sorted(ids) == sorted(everything)
    assert len(data) == len(ids)


def test_get_gives_vectors_in_the_order_asked_for_again_if_asked_again(data, everything):
    ids = random.Random(0).choices(sorted(everything), k=40)
    found = data.get(ids)
    assert found.dtype == np.float16
    assert np.array_equal(found, np.stack([everything[name] for name in ids]))


def test_get_reads_only_files_that_may_hold_the_id(data, line, everything, monkeypatch):
    import embedome.parquet.row_file

    opened = []
    parquet_file = embedome.parquet.row_file.ParquetFile
    monkeypatch.setattr(
        embedome.parquet.row_file, "ParquetFile", lambda path, *rest: opened.append(path) or parquet_file(path, *rest)
    )
    name = next(name for name in everything if not name.startswith("copy"))
    data.get([name])
    assert len(set(opened)) < len(list(line.dataset.rglob("split=*/*.parquet")))


def test_get_says_which_id_is_not_there_and_which_was_skipped(data):
    with pytest.raises(UserError, match="no row has the id 'nobody'"):
        data.get(["nobody"])
    skipped = data.skipped["id"][0].as_py()
    with pytest.raises(UserError, match=rf"'{skipped}' has no vector, it was skipped \(too-long\)"):
        data.get([skipped])


def test_to_dask_is_the_matrix_with_known_chunks(data):
    array = data.to_dask("train")
    expected = np.concatenate([matrix for _, matrix in data.matrix("train")])
    assert array.shape == expected.shape
    assert array.dtype == np.float16
    assert np.array_equal(array.compute(scheduler="synchronous"), expected)
    assert array.chunks[0] == tuple(file["rows"] for file in data.files("train") if file["rows"])


def test_an_unknown_split_and_a_folder_without_manifest_are_clear_errors(data, tmp_path):
    with pytest.raises(UserError, match="no split 'dev'; there are val, test, train"):
        next(data.matrix("dev"))
    with pytest.raises(UserError, match=r"no data set there \(no _manifest.json\)"):
        open_dataset(tmp_path)


def test_describe_counts_what_duckdb_counts(data, line):
    about = data.describe()
    counts = duckdb.sql(
        f"select split, state, count(*) from '{line.dataset}/split=*/*.parquet' group by all"
    ).fetchall()
    assert about["rows"] == sum(count for *_, count in counts)
    for split, state, count in counts:
        assert about["splits"][split]["states"][state] == count
    assert about["bytes"] == sum(path.stat().st_size for path in line.dataset.glob("split=*/*.parquet"))
    assert about["skipped"] == pq.read_metadata(line.dataset / "_skipped.parquet").num_rows > 0
    assert about["provenance"]["model"]["trained"] is False
    json.dumps(about)


def assert_vectors(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, vector in expected.items():
        assert np.array_equal(np.asarray(found[name], np.float16), vector)


def test_pyarrow_reads_it(line, everything):
    table = pyarrow.dataset.dataset(line.dataset, partitioning="hive").to_table()
    assert set(table["split"].to_pylist()) == {"val", "test", "train"}
    assert_vectors(dict(zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True)), everything)


def test_pandas_reads_it(line, everything):
    frame = pd.read_parquet(line.dataset)
    assert set(frame["split"]) == {"val", "test", "train"}
    assert frame["embedding"].iloc[0].dtype == np.float16
    assert_vectors(dict(zip(frame["id"], frame["embedding"], strict=True)), everything)


def test_polars_reads_it(line, everything):
    frame = pl.scan_parquet(f"{line.dataset}/split=*/*.parquet", hive_partitioning=True).collect()
    assert frame.schema["embedding"] == pl.Array(pl.Float16, 32)
    assert set(frame["split"]) == {"val", "test", "train"}
    assert_vectors(dict(zip(frame["id"], frame["embedding"].to_numpy(), strict=True)), everything)


def test_duckdb_reads_it(line, everything):
    rows = duckdb.sql(
        f"select id, embedding, split from read_parquet('{line.dataset}/split=*/*.parquet', hive_partitioning = true)"
    ).fetchall()
    assert {split for *_, split in rows} == {"val", "test", "train"}
    assert_vectors({name: vector for name, vector, _ in rows}, everything)


def test_dask_reads_it(line, everything):
    frame = dask.dataframe.read_parquet(str(line.dataset)).compute(scheduler="synchronous")
    assert set(frame["split"]) == {"val", "test", "train"}
    assert_vectors(dict(zip(frame["id"], frame["embedding"], strict=True)), everything)


def test_columns_of_the_header_are_there(line):
    description = "some protein n=2 Tax=Homo TaxID=9606 RepID=R_x"
    assert parse_description(description).taxid == 9606
    found = duckdb.sql(f"select distinct taxid, n_members from '{line.dataset}/split=*/*.parquet'").fetchall()
    assert found == [(9606, 2)]
