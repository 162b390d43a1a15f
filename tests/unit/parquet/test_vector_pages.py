"""Vectors read from pages equal pyarrow's, whatever wrote the file; damage is found."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedome.common.errors import UserError
from embedome.dataset.format import embedding_metadata
from embedome.dataset.part_file import write_part
from embedome.parquet.row_file import RowFile
from embedome.parquet.vectors import GROUP_ROWS, vector_matrix
from helpers.made_dataset import PROVENANCE, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st

ROWS = GROUP_ROWS + 1000


@pytest.fixture(scope="module", params=[1, 3, 64, 700])
def file(request, tmp_path_factory):
    """A file of two row groups, the first with several pages of vectors where these are long."""
    path = tmp_path_factory.mktemp("pages") / "part.parquet"
    write_part(path, random_rows(0, ROWS, request.param), embedding_metadata(PROVENANCE))
    return RowFile(path)


def expected(path: Path, group: int) -> np.ndarray:
    """A row group's vectors as pyarrow reads them."""
    return vector_matrix(pq.ParquetFile(path).read_row_group(group, ["embedding"])["embedding"])


def refuse(*_):
    raise AssertionError("read by pyarrow")


def test_whole_row_groups_equal_pyarrows(file, monkeypatch):
    matrices = [expected(file.path, group) for group in (0, 1)]
    monkeypatch.setattr(RowFile, "arrow", refuse)
    for group, matrix in enumerate(matrices):
        assert np.array_equal(file.vectors(group, "embedding"), matrix)


@settings(max_examples=12)
@given(wanted=st.sets(st.integers(0, GROUP_ROWS - 1), max_size=20))
def test_some_rows_equal_pyarrows(file, wanted):
    rows = np.array(sorted(wanted), np.int64)
    assert np.array_equal(file.vectors(0, "embedding", rows), expected(file.path, 0)[rows])


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "snappy"},
        {"use_dictionary": False, "compression": "none"},
        {"use_dictionary": False, "compression": "gzip"},
        {"use_dictionary": False, "data_page_version": "2.0"},
        {"use_dictionary": False, "data_page_size": 1000},
        {"use_dictionary": False, "use_byte_stream_split": ["embedding.list.element"]},
    ],
    ids=str,
)
def test_files_that_others_wrote_are_read_too(options, tmp_path):
    table = random_rows(0, 3000, 10)
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2000, **options)
    file, matrix = RowFile(tmp_path / "x.parquet"), vector_matrix(table["embedding"])
    rows = np.array([0, 1, 777, 1999])
    assert np.array_equal(file.vectors(0, "embedding"), matrix[:2000])
    assert np.array_equal(file.vectors(1, "embedding"), matrix[2000:])
    assert np.array_equal(file.vectors(0, "embedding", rows), matrix[rows])
    assert file.read(1, ["embedding", "id"]).equals(table.slice(2000).select(["embedding", "id"]))


def test_no_flipped_bit_gives_other_vectors(tmp_path):
    path = tmp_path / "part.parquet"
    write_part(path, random_rows(0, 50, 8), embedding_metadata(PROVENANCE))
    sound = path.read_bytes()
    matrix, start = expected(path, 0), RowFile(path).chunk(0, "embedding").data_page_offset
    # The header of the page, and some of its data.
    positions = [*range(start, start + 60), *range(start + 60, start + 800, 37)]
    found = 0
    for position in positions:
        for bit in (1, 4, 128):
            data = bytearray(sound)
            data[position] ^= bit
            path.write_bytes(data)
            for wanted in (None, np.arange(50)):
                try:
                    vectors = RowFile(path).vectors(0, "embedding", wanted)
                except UserError:
                    found += 1
                else:
                    assert np.array_equal(vectors, matrix)
    assert found > 3 * len(positions)


def test_a_file_cut_short_after_it_was_opened_is_a_clear_error(tmp_path):
    path = tmp_path / "part.parquet"
    write_part(path, random_rows(0, 2000, 64), embedding_metadata(PROVENANCE))
    file = RowFile(path)
    path.write_bytes(path.read_bytes()[:100_000])
    for wanted in (None, np.array([1999])):
        with pytest.raises(UserError, match=r"part.parquet: damaged"):
            file.vectors(0, "embedding", wanted)


def test_nothing_but_the_columns_is_there_and_types_are_kept(tmp_path):
    table = random_rows(0, 20, 4)
    write_part(tmp_path / "p.parquet", table, embedding_metadata(PROVENANCE))
    found = RowFile(tmp_path / "p.parquet").read(0, ["taxid", "embedding"], np.array([3, 4]))
    assert found.schema == pa.schema([table.schema.field("taxid"), table.schema.field("embedding")])
    assert found.equals(table.select(["taxid", "embedding"]).slice(3, 2))
