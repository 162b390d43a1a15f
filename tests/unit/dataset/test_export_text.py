"""CSV and TSV: every number as it is, read by pandas, by Python's csv module and by DuckDB."""

import csv

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from embedome.cli.main import main
from embedome.common.errors import UserError
from embedome.dataset import open_dataset
from embedome.dataset.export_text import ROWS, all_numbers, export_text
from embedome.dataset.format import embedding_metadata
from embedome.dataset.part_file import write_part
from helpers.made_dataset import PROVENANCE, make_dataset, random_rows
from helpers.processes import output_of
from helpers.small_run import vectors

SIZES = {"val": [30, 0, 3], "test": [0], "train": [ROWS + 5, 20]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("text"), SIZES)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("split", [None, "val", "test", "train"])
def test_every_row_is_a_line(folder, tmp_path, split, suffix):
    out = tmp_path / f"x{suffix}"
    count = export_text(open_dataset(folder), out, split)
    expected = vectors(folder / f"split={split or '*'}" / "*.parquet") if split != "test" else {}
    frame = pd.read_csv(out, sep={".csv": ",", ".tsv": "\t"}[suffix], index_col="id")
    assert list(frame.columns) == [f"embedding_{number}" for number in range(8)]
    assert count == len(frame) == len(expected)
    assert set(frame.index) == set(expected)
    assert all(np.array_equal(frame.loc[name].to_numpy(np.float16), expected[name]) for name in expected)
    assert len(duckdb.read_csv(str(out)).fetchall()) == count
    order = [name for table in open_dataset(folder).tables(["id"], split) for name in table["id"].to_pylist()]
    assert list(frame.index) == order


def test_each_half_float_is_read_back():
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    found = np.array([float(text) for text in all_numbers().to_pylist()]).astype(np.float16)
    assert np.array_equal(found, numbers, equal_nan=True)
    assert np.array_equal(
        np.signbit(found), np.signbit(numbers) & ~np.isnan(numbers) | np.signbit(found) & np.isnan(numbers)
    )


def test_ids_with_commas_and_quotes_are_quoted(tmp_path):
    names = ['"', 'a"b', "a,b", "plain", "x|y;z"]
    table = random_rows(0, len(names), 4)
    table = table.set_column(0, table.schema.field("id"), pa.array(names))
    write_part(tmp_path / "in.parquet", table, embedding_metadata(PROVENANCE))
    for suffix, options in ((".csv", {}), (".tsv", {"delimiter": "\t", "quoting": csv.QUOTE_NONE})):
        export_text(open_dataset(tmp_path / "in.parquet"), tmp_path / f"x{suffix}")
        with open(tmp_path / f"x{suffix}", newline="") as stream:
            assert [row[0] for row in csv.reader(stream, **options)] == ["id", *names]


def test_the_same_data_set_gives_the_same_bytes_and_a_file_is_not_replaced(folder, tmp_path):
    for name in ("1.csv", "2.csv"):
        export_text(open_dataset(folder), tmp_path / name)
    before = (tmp_path / "1.csv").read_bytes()
    assert before == (tmp_path / "2.csv").read_bytes()
    with pytest.raises(UserError, match=r"1\.csv: is there already"):
        export_text(open_dataset(folder), tmp_path / "1.csv", "val")
    assert (tmp_path / "1.csv").read_bytes() == before


EXPORT = """
from pathlib import Path
from embedome.cli.export import choose_format, write_export
from embedome.common.process import peak_memory
out = Path(sys.argv[2])
print(write_export(sys.argv[1], out, choose_format(out, None)), peak_memory())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.npy", "x.csv", "x.h5ad"])
def test_memory_of_an_export_does_not_grow_with_the_data_set(tmp_path, name):
    rows, dimension, peaks = 8192, 512, []
    # Both have at least as many files as are read ahead, so that memory for these is the same.
    for files in (4, 16):
        folder = make_dataset(tmp_path / f"{files}", {"train": [rows] * files}, dimension)
        count, peak = map(int, output_of(EXPORT, folder, tmp_path / f"{files}-{name}").split())
        assert count == rows * files
        peaks.append(peak)
    grown = (16 - 4) * rows * dimension * 2
    assert peaks[1] - peaks[0] < grown * 3 / 4, peaks


@pytest.mark.parametrize("name", ["x.npy", "x.h5", "x.hdf5", "x.h5ad", "x.csv", "X.TSV"])
def test_the_name_says_the_format(folder, tmp_path, name, capsys):
    main(["export", str(folder), str(tmp_path / name), "--split", "val"])
    assert capsys.readouterr().out == f"{tmp_path / name}: 33 proteins\n"
    begin = (tmp_path / name).read_bytes()[:8]
    magic = {"npy": b"\x93NUMPY", "csv": b"id,embed", "tsv": b"id\tembed"}
    assert begin.startswith(magic.get(name.lower().rpartition(".")[2], b"\x89HDF\r\n\x1a\n"))


@pytest.mark.parametrize("name", ["-", "x", "x.txt", "x.parquet", "x.csv.gz"])
def test_another_name_is_an_error_that_says_what_is_possible(folder, tmp_path, name, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["export", str(folder), name])
    said = capsys.readouterr().err
    assert "expected a name that ends in .npy, .h5, .hdf5, .h5ad, .csv, .tsv, or --format parquet" in said
    assert ("standard output takes no export" in said) == (name == "-")
    assert list(tmp_path.iterdir()) == []
