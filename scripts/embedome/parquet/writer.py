"""Arrow tables to Parquet files whose bytes depend on their rows alone."""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from embedome.common.digested_file import DigestedFile
from embedome.common.json_files import file_sha256
from embedome.parquet.reader import RowReader

# How pages of all files are written.
PAGE_OPTIONS = {
    "compression": "zstd",
    "compression_level": 1,
    "write_page_index": True,
    "write_page_checksum": True,
}


class ParquetSink:
    """Write tables to one Parquet file whose row groups have exactly `rows` rows, however the tables are cut.

    Used as a context manager; the file at `path` is whole only when the block has ended.

    Parameters
    ----------
    path : path or DigestedFile
        The file, written in place: wrap it in `atomic_files.atomic_path` or `atomic_files.atomic_directory`.
    schema : pyarrow.Schema
    rows : int
        Rows per row group. At most one row group is held in memory.
    encoded_rows : int, optional
        Rows of a group that are encoded at once; None for all. While pyarrow encodes half floats they take
        ten times their room: where rows are large, few at once fit the processor's caches.
    **options
        Passed to `pyarrow.parquet.ParquetWriter`, e.g. `use_dictionary` and `write_statistics`.
    """

    def __init__(
        self,
        path: str | os.PathLike | DigestedFile,
        schema: pa.Schema,
        rows: int,
        encoded_rows: int | None = None,
        **options: Any,
    ) -> None:
        self.group_rows, self.encoded_rows = rows, encoded_rows or rows
        self.rows = 0
        self.waiting: list[pa.Table] = []
        self.n_waiting = 0
        self.writer = pq.ParquetWriter(path, schema, **PAGE_OPTIONS, **options)

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self.waiting.append(table)
        self.n_waiting += len(table)
        self.rows += len(table)
        if self.n_waiting >= self.group_rows:
            joined = pa.concat_tables(self.waiting)
            whole = len(joined) - len(joined) % self.group_rows
            for start in range(0, whole, self.group_rows):
                self.write_group(joined.slice(start, self.group_rows))
            self.waiting, self.n_waiting = [joined.slice(whole)], len(joined) - whole

    def describe(self, metadata: Mapping[bytes, bytes]) -> None:
        """Add entries to the file's metadata."""
        self.writer.add_key_value_metadata(dict(metadata))

    def write_group(self, table: pa.Table) -> None:
        # Chunks of as many rows, however they arrived: a chunk is encoded at once, and bytes depend on where they end.
        starts = range(0, len(table), self.encoded_rows)
        chunks = [table.slice(start, self.encoded_rows).combine_chunks() for start in starts]
        self.writer.write_table(pa.concat_tables(chunks), row_group_size=self.group_rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and self.n_waiting:
            self.write_group(pa.concat_tables(self.waiting))
        self.writer.close()


def write_folder(
    folder: Path,
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    *,
    rows: int,
    file_groups: int,
    pool: Executor,
    **options: Any,
) -> dict[Path, str]:
    """Write tables to a folder of Parquet files ``part-NNNNN.parquet``.

    Without any row one empty file is written, for its schema.

    Parameters
    ----------
    folder : Path
    tables : iterable of pyarrow.Table
    schema : pyarrow.Schema
    rows, file_groups : int
        Rows of a row group, and row groups of a file.
    pool : concurrent.futures.Executor
        Where the digest of a file is computed, while the next one is written.
    **options
        As of `ParquetSink`.

    Returns
    -------
    dict of Path to str
        The files, and each one's SHA-256.
    """
    groups = row_groups(tables, schema, rows)
    digests: dict[Path, Future[str]] = {}
    for first in groups:
        path = folder / f"part-{len(digests):05d}.parquet"
        with ParquetSink(path, schema, rows, **options) as sink:
            for group in chain([first], islice(groups, file_groups - 1)):
                sink.write(group)
        digests[path] = pool.submit(file_sha256, path)
    return {path: digest.result() for path, digest in digests.items()}


def row_groups(tables: Iterable[pa.Table], schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """Cut tables into groups of exactly `rows` rows, fewer in the last, which without any row is the only one."""
    reader = RowReader(tables, schema)
    yield reader.take(rows)
    while len(group := reader.take(rows)):
        yield group
