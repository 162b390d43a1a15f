"""Arrow tables to Parquet files whose bytes depend on their rows alone."""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from embedome.common.digested_file import DigestedFile
from embedome.common.parallel import map_in_order
from embedome.parquet.concatenation import Concatenation
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
    path : path or file-like
        The file, written in place: wrap it in `atomic_files.atomic_path` or `atomic_files.atomic_directory`.
    schema : pyarrow.Schema
    rows : int
        Rows of a row group; memory is that of one.
    encoded_rows : int, optional
        Of these, how many are encoded at once; None for all. What pyarrow makes of them on its way takes ten times the
        room of half floats: where rows are large, few at once fit the processor's caches.
    **options
        Passed to `pyarrow.parquet.ParquetWriter`, e.g. `use_dictionary` and `write_statistics`.
    """

    def __init__(
        self,
        path: str | os.PathLike | BinaryIO | pa.NativeFile | DigestedFile,
        schema: pa.Schema,
        rows: int,
        encoded_rows: int | None = None,
        **options,
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

    def __enter__(self) -> "ParquetSink":
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
    ahead: int,
    **options,
) -> dict[Path, str]:
    """Write tables to a folder of Parquet files ``part-NNNNN.parquet``, row groups being encoded in a pool.

    Without any row there is one empty file, so that the schema is there.

    Parameters
    ----------
    folder : Path
    tables : iterable of pyarrow.Table
    schema : pyarrow.Schema
    rows, file_groups : int
        Rows of a row group, and row groups of a file.
    pool : concurrent.futures.Executor
        Of threads.
    ahead : int
        Row groups in memory.
    **options
        As of `ParquetSink`.

    Returns
    -------
    dict of Path to str
        The files, and each one's SHA-256.
    """
    encode = partial(encode_group, schema, rows, options)
    encoded = map_in_order(pool, encode, row_groups(tables, schema, rows), ahead)
    files = {}
    for first in encoded:
        with Concatenation(folder / f"part-{len(files):05d}.parquet") as file:
            for group in chain([first], islice(encoded, file_groups - 1)):
                file.append(pa.BufferReader(group))
            file.finish({})
        files[file.path] = file.sha256.hexdigest()
    return files


def row_groups(tables: Iterable[pa.Table], schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """Cut tables into groups of exactly `rows` rows, fewer in the last, which without any row is the only one."""
    reader = RowReader(tables, schema)
    yield reader.take(rows)
    while len(group := reader.take(rows)):
        yield group


def encode_group(schema: pa.Schema, rows: int, options: Mapping[str, Any], group: pa.Table) -> pa.Buffer:
    """A Parquet file of one row group."""
    stream = pa.BufferOutputStream()
    with ParquetSink(stream, schema, rows, **options) as sink:
        sink.write(group)
    return stream.getvalue()
