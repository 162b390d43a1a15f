"""Arrow tables to Parquet files whose bytes depend on their rows alone."""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedome.concatenation import Concatenation
from embedome.errors import UserError
from embedome.parallel import map_in_order

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
        self.group_rows = rows
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
        # One chunk per column: pages end where chunks end, and bytes must not depend on how rows arrived.
        self.writer.write_table(table.combine_chunks(), row_group_size=self.group_rows)

    def __enter__(self) -> "ParquetSink":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and self.n_waiting:
            self.write_group(pa.concat_tables(self.waiting))
        self.writer.close()


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


class ParquetFile(pq.ParquetFile):
    """A Parquet file that is read with its page checksums verified; errors of reading name it.

    Raises
    ------
    UserError
        Where the file is missing or is not (or no longer) a Parquet file; and, as it is read, where a page is damaged.
    """

    def __init__(self, path: str | os.PathLike, metadata: pq.FileMetaData | None = None) -> None:
        self.path = path
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file")
        try:
            super().__init__(path, metadata=metadata, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable Parquet file ({first_line(error)})") from None

    def read_row_group(self, *args: Any, **kwargs: Any) -> pa.Table:
        """As pyarrow's."""
        with damage_named(self.path):
            return super().read_row_group(*args, **kwargs)

    def read(self, *args: Any, **kwargs: Any) -> pa.Table:
        """As pyarrow's."""
        with damage_named(self.path):
            return super().read(*args, **kwargs)

    def iter_batches(self, *args: Any, **kwargs: Any) -> Iterator[pa.RecordBatch]:
        """As pyarrow's."""
        batches = super().iter_batches(*args, **kwargs)
        while True:
            with damage_named(self.path):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


@contextmanager
def damage_named(path: str | os.PathLike) -> Iterator[None]:
    """Raise a `UserError` that names the file where reading it fails."""
    try:
        yield
    except MemoryError:  # Arrow's is an `ArrowException`, too
        raise
    except (pa.ArrowException, OSError) as error:
        fault = f"{path}: damaged ({first_line(error)}); restore it from a copy, or rerun the stage that wrote it"
        raise UserError(fault) from None


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return str(error).split("\n", 1)[0]
