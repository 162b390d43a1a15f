"""The Parquet file of a part: its layout, its rows as others read them, and damage to it."""

import io
import shutil
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedome.common.errors import UserError
from embedome.dataset.format import embedding_metadata, embedding_schema
from embedome.dataset.part_file import read_rows, write_part
from embedome.parquet.id_lookup import find_rows
from embedome.parquet.vectors import vector_array, vector_matrix
from embedome.parquet.writer import ParquetSink
from helpers import small_run as line
from hypothesis import example, given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def large_part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of 20,000 rows with made-up vectors."""
    n = 20_000
    path = tmp_path_factory.mktemp("format") / "part.parquet"
    generator = np.random.default_rng(1)
    values = generator.normal(size=(n, 16)).astype(np.float16)
    table = pa.table(
        {
            "id": [f"P{i:05d}" for i in range(n)],
            "digest": [f"SQ.{generator.bytes(12).hex()}" for _ in range(n)],
            "length": np.arange(n, dtype=np.int32),
            "n_residues_used": np.arange(n, dtype=np.int32),
            "state": ["embedded"] * n,
            "taxid": pa.array([9606, None] * (n // 2), pa.int32()),
            "n_members": pa.array([1] * n, pa.int32()),
            "embedding": vector_array(values),
        }
    )
    schema = embedding_schema(16)
    write_part(path, table.cast(schema), embedding_metadata({"pooling": ["mean"]}, fingerprint="f"))
    np.save(path.with_suffix(".npy"), values)
    return path


def test_layout_of_a_part(large_part: Path) -> None:
    metadata = pq.read_metadata(large_part)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [8192, 8192, 3616]
    first = None
    for i in range(metadata.num_row_groups):
        columns = {metadata.row_group(i).column(j).path_in_schema: metadata.row_group(i).column(j) for j in range(8)}
        assert {column.compression for column in columns.values()} == {"ZSTD"}
        vectors = columns.pop("embedding.list.element")
        assert "PLAIN" in vectors.encodings
        assert not {"PLAIN_DICTIONARY", "RLE_DICTIONARY", "BYTE_STREAM_SPLIT"} & set(vectors.encodings)
        assert not vectors.has_dictionary_page
        assert vectors.statistics is None or not vectors.statistics.has_min_max
        ids = columns["id"].statistics
        assert (ids.min, ids.max) == (f"P{8192 * i:05d}", f"P{min(8192 * i + 8191, 19_999):05d}")
        assert first is None or first < ids.min
        first = ids.max
        assert columns["length"].statistics.min == 8192 * i
        assert all(column.has_offset_index for column in [vectors, *columns.values()])
        assert columns["id"].has_column_index


def test_duckdb_reads_the_vectors_exactly(large_part: Path) -> None:
    found = line.vectors(large_part)
    assert list(found) == [f"P{i:05d}" for i in range(20_000)]
    assert np.array_equal(np.stack(list(found.values())), np.load(large_part.with_suffix(".npy")))


@pytest.mark.parametrize("column", range(8))
def test_a_flipped_bit_in_a_page_is_found(large_part: Path, tmp_path: Path, column: int) -> None:
    path = shutil.copy(large_part, tmp_path / "flipped.parquet")
    line.flip(path, line.page_byte(path, 1, column))
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(path, page_checksum_verification=True).read()
    with pytest.raises(UserError, match=r"flipped\.parquet: damaged") as excinfo:
        read_rows(path)
    assert "\n" not in str(excinfo.value)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 20_000), max_size=6))
def test_bytes_do_not_depend_on_how_rows_arrive(large_part: Path, cuts: list[int]) -> None:
    rows = pq.ParquetFile(large_part).read(columns=["id", "state"])
    bounds = [0, *sorted(cuts), len(rows)]

    def written(tables: Iterable[pa.Table]) -> bytes:
        stream = io.BytesIO()
        with ParquetSink(stream, rows.schema, 8192, use_dictionary=["state"]) as sink:
            for table in tables:
                sink.write(table)
        return stream.getvalue()

    assert written(rows.slice(a, b - a) for a, b in pairwise(bounds)) == written([rows])


@settings(max_examples=30, deadline=None)
@example(wanted={8191})
@example(wanted={8192})
@example(wanted={19_999})
@given(wanted=st.sets(st.integers(-5, 20_100), max_size=12))
def test_rows_are_found_by_id(large_part: Path, wanted: set[int]) -> None:
    ids = sorted(f"P{i:05d}" for i in wanted)
    found = find_rows(large_part, ids)
    assert found["id"].to_pylist() == [name for name in ids if "P00000" <= name <= "P19999" and len(name) == 6]
    assert found["length"].to_pylist() == sorted(i for i in wanted if 0 <= i < 20_000)
    values = np.load(large_part.with_suffix(".npy"))
    assert np.array_equal(vector_matrix(found["embedding"]), values[found["length"].to_numpy()])
