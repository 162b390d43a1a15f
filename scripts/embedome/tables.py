"""Arrow tables to Parquet files whose bytes depend on their rows alone."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedome.concatenation import Concatenation
from embedome.errors import UserError

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
        The file, written in place: wrap it in `files.atomic_path` or `files.atomic_directory`.
    schema : pyarrow.Schema
    rows : int
        Rows of a row group; memory is that of one.
    **options
        Passed to `pyarrow.parquet.ParquetWriter`, e.g. `use_dictionary` and `write_statistics`.
    """

    def __init__(
        self, path: str | os.PathLike | BinaryIO | pa.NativeFile, schema: pa.Schema, rows: int, **options
    ) -> None:
        self.rows = 0
        self.groups = Groups(rows)
        self.writer = pq.ParquetWriter(path, schema, **PAGE_OPTIONS, **options)

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self.rows += len(table)
        for group in self.groups.add(table):
            self.write_group(group)

    def describe(self, metadata: Mapping[bytes, bytes]) -> None:
        """Add entries to the file's metadata."""
        self.writer.add_key_value_metadata(dict(metadata))

    def write_group(self, table: pa.Table) -> None:
        # One chunk per column: pages end where chunks end, and bytes must not depend on how rows arrived.
        self.writer.write_table(table.combine_chunks(), row_group_size=self.groups.rows)

    def __enter__(self) -> "ParquetSink":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and (rest := self.groups.rest()):
            self.write_group(rest)
        self.writer.close()


class Groups:
    """Cuts tables into groups of exactly `rows` rows, however they come."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.waiting: list[pa.Table] = []
        self.n_waiting = 0

    def add(self, table: pa.Table) -> Iterator[pa.Table]:
        """Add rows, and take the groups that are whole."""
        self.waiting.append(table)
        self.n_waiting += len(table)
        if self.n_waiting >= self.rows:
            joined = pa.concat_tables(self.waiting)
            whole = len(joined) - len(joined) % self.rows
            self.waiting, self.n_waiting = [joined.slice(whole)], len(joined) - whole
            for start in range(0, whole, self.rows):
                yield joined.slice(start, self.rows)

    def rest(self) -> pa.Table | None:
        """What is left at the end, if anything is."""
        return pa.concat_tables(self.waiting) if self.n_waiting else None


class FolderSink:
    """Write tables to a folder of Parquet files ``part-NNNNN.parquet``, row groups being encoded in a pool.

    Used as a context manager; the files are whole only when the block has ended. Without any row there is one empty
    file, so that the schema is there.

    Parameters
    ----------
    folder : Path
    schema : pyarrow.Schema
    rows, file_groups : int
        Rows of a row group, and row groups of a file.
    pool : concurrent.futures.Executor
        Of threads.
    ahead : int
        Row groups in memory.
    **options
        As of `ParquetSink`.

    Attributes
    ----------
    files : dict of Path to str
        The files, and each one's SHA-256.
    """

    def __init__(
        self, folder: Path, schema: pa.Schema, *, rows: int, file_groups: int, pool: Executor, ahead: int, **options
    ) -> None:
        self.folder, self.schema, self.options = folder, schema, options
        self.groups, self.file_groups = Groups(rows), file_groups
        self.pool, self.ahead = pool, ahead
        self.encoded: deque[Future[pa.Buffer]] = deque()
        self.files: dict[Path, str] = {}
        self.file: Concatenation | None = None

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        for group in self.groups.add(table):
            self.submit(group)

    def submit(self, group: pa.Table) -> None:
        self.encoded.append(self.pool.submit(self.encode, group))
        while len(self.encoded) > self.ahead:
            self.append_next()

    def encode(self, group: pa.Table) -> pa.Buffer:
        """A file of one row group."""
        stream = pa.BufferOutputStream()
        with ParquetSink(stream, self.schema, self.groups.rows, **self.options) as sink:
            sink.write(group)
        return stream.getvalue()

    def append_next(self) -> None:
        """Write the first of the row groups under way."""
        encoded = self.encoded.popleft().result()
        self.file = self.file or Concatenation(self.folder / f"part-{len(self.files):05d}.parquet")
        self.file.append(pa.BufferReader(encoded))
        if len(self.file.groups) == self.file_groups:
            self.end_file()

    def end_file(self) -> None:
        self.file.finish({})
        self.file.close()
        self.files[self.file.path] = self.file.sha256.hexdigest()
        self.file = None

    def __enter__(self) -> "FolderSink":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            if self.file:
                self.file.close()

    def finish(self) -> None:
        rest = self.groups.rest()
        if rest or not (self.files or self.file or self.encoded):
            self.submit(rest or self.schema.empty_table())
        while self.encoded:
            self.append_next()
        if self.file:
            self.end_file()


class RowReader:
    """Takes rows off a stream of tables, as many as are asked for."""

    def __init__(self, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
        self.tables = iter(tables)
        self.rest = schema.empty_table()

    def take(self, count: int) -> pa.Table:
        """The next `count` rows, fewer at the end."""
        pieces, length = [self.rest], len(self.rest)
        while length < count and (table := next(self.tables, None)) is not None:
            pieces.append(table)
            length += len(table)
        joined = pa.concat_tables(pieces)
        self.rest = joined.slice(count)
        return joined.slice(0, count).combine_chunks()

    def take_through(self, last: str) -> pa.Table:
        """The next rows whose ids are not above `last`, of a stream in id order."""
        pieces = [self.rest.slice(0, 0)]
        while len(self.rest) or (table := next(self.tables, None)) is not None:
            rows = self.rest if len(self.rest) else table
            count = pc.sum(pc.less_equal(rows["id"], last), min_count=0).as_py()
            pieces.append(rows.slice(0, count))
            self.rest = rows.slice(count)
            if len(self.rest):
                break
        return pa.concat_tables(pieces)


def open_parquet(path: str | os.PathLike) -> pq.ParquetFile:
    """Open a Parquet file, its page checksums verified as pages are read.

    Raises
    ------
    UserError
        Where the file is missing or is not (or no longer) a Parquet file.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({first_line(error)})") from None


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return str(error).split("\n", 1)[0]
