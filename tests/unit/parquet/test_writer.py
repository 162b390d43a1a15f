"""Row groups of exact sizes, in files of exact numbers of them, however rows arrive."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedome.parquet.writer import row_groups, write_folder
from helpers.filtered import tree
from hypothesis import given
from hypothesis import strategies as st

SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("number", pa.int64())])


def rows(start: int, end: int) -> pa.Table:
    return pa.table([[f"id{n:05d}" for n in range(start, end)], list(range(start, end))], schema=SCHEMA)


def pieces(sizes: list[int]) -> Iterator[pa.Table]:
    start = 0
    for size in sizes:
        yield rows(start, start + size)
        start += size


def write(folder: Path, tables: Iterable[pa.Table]) -> dict[Path, str]:
    folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        return write_folder(folder, tables, SCHEMA, rows=16, file_groups=3, pool=pool, write_statistics=["id"])


@given(st.lists(st.integers(0, 50), max_size=12))
def test_groups_have_as_many_rows_as_asked_for(sizes: list[int]) -> None:
    *found, rest = row_groups(pieces(sizes), SCHEMA, 16)
    assert all(len(group) == 16 for group in found)
    assert 0 < len(rest) <= 16 or (not found and not sum(sizes))
    assert pa.concat_tables([*found, rest]).equals(rows(0, sum(sizes)))


@pytest.mark.parametrize("sizes", [[], [0, 0], [5], [16], [48], [49], [10] * 20, [200, 1, 30]])
def test_files_are_the_same_however_rows_arrive(tmp_path: Path, sizes: list[int]) -> None:
    files = write(tmp_path / "pieces", pieces(sizes))
    total = sum(sizes)
    write(tmp_path / "whole", pieces([total]))
    assert tree(tmp_path / "pieces") == tree(tmp_path / "whole")
    # Without a row one empty file, which says what the columns are.
    assert [path.name for path in files] == [f"part-{n:05d}.parquet" for n in range(max(1, -(-total // 48)))]
    assert files == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert all(path.read_bytes().count(b"PAR1") == 2 for path in files)
    groups = [pq.ParquetFile(path).metadata.row_group(n).num_rows for path in files for n in range(groups_of(path))]
    assert groups == [16] * (total // 16) + [total % 16] * (total % 16 > 0)
    query = f"SELECT id, number FROM '{tmp_path}/pieces/*.parquet' ORDER BY id"
    assert duckdb.sql(query).fetchall() == [(f"id{n:05d}", n) for n in range(total)]


def groups_of(path: Path) -> int:
    return pq.ParquetFile(path).num_row_groups


def test_rows_that_cannot_be_had_fail_the_writer(tmp_path: Path) -> None:
    def fail_half_way() -> Iterator[pa.Table]:
        yield rows(0, 20)
        raise OSError("no such disk")

    with pytest.raises(OSError, match="no such disk"):
        write(tmp_path / "files", fail_half_way())
