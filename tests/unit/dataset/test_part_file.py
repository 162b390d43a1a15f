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
from embedome.common.json_files import file_sha256
from embedome.dataset import part_file
from embedome.dataset.format import embedding_metadata, embedding_schema, residue_schema
from embedome.dataset.part_file import read_rows, write_part, write_residues
from embedome.parquet.id_lookup import find_rows
from embedome.parquet.vectors import residues_column, vector_array, vector_matrix
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


# Per-residue embeddings


def residue_rows(count: int, dimension: int = 16) -> tuple[pa.Table, list[np.ndarray]]:
    """Rows with random vectors for each of 0 to 200 residues."""
    generator = np.random.default_rng(count)
    states = [generator.normal(size=(n, dimension)).astype(np.float16) for n in generator.integers(0, 200, count)]
    ids = [f"P{number:05d}" for number in range(count)]
    return pa.table([ids, ids, residues_column(states, dimension)], schema=residue_schema(dimension)), states


@pytest.mark.parametrize("count", [0, 1, 64, 150])
def test_residues_are_written_in_groups_and_digested_on_the_way(tmp_path: Path, count: int) -> None:
    table, states = residue_rows(count)
    path = tmp_path / "part.residues.parquet"
    assert write_residues(path, table, {"pooling": ["mean"]}) == file_sha256(path)
    file = pq.ParquetFile(path, page_checksum_verification=True)
    assert file.schema_arrow.remove_metadata() == residue_schema(16)
    groups = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    assert groups == [64] * (count // 64) + [count % 64] * (count % 64 > 0)
    found = file.read()
    assert found["id"].to_pylist() == table["id"].to_pylist()
    for row, each in zip(found["residue_embeddings"], states, strict=True):
        assert np.array_equal(row.values.flatten().to_numpy(), each.reshape(-1))


def test_the_digest_is_that_of_the_file_that_another_job_has_written(tmp_path: Path) -> None:
    path = tmp_path / "part.residues.parquet"
    write_residues(path, residue_rows(3)[0], {"pooling": ["mean"]})
    theirs = file_sha256(path)
    assert write_residues(path, residue_rows(4)[0], {"pooling": ["mean"]}, lambda: True) == theirs
    assert file_sha256(path) == theirs


def test_a_full_disk_is_reported_with_the_name_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`open` returns a device that is full, as a file system is."""
    monkeypatch.setattr(part_file, "open", lambda path, mode: io.FileIO("/dev/full", mode), raising=False)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_residues(tmp_path / "part.residues.parquet", residue_rows(3)[0], {"pooling": ["mean"]})
    assert caught.value.filename == str(tmp_path / "part.residues.parquet")
