"""Parquet files read with page checksums, damage named; rows taken off a stream of tables, and streams merged."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedome.common.errors import UserError, first_line

# What pyarrow raises where a file is damaged; the last of names in its schema.
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)


class RowReader:
    """Takes rows off a stream of tables, as many as are asked for."""

    def __init__(self, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
        self.tables = iter(tables)
        self.rest = schema.empty_table()

    def take(self, count: int) -> pa.Table:
        """Take the next `count` rows, fewer at the end."""
        pieces, length = [self.rest], len(self.rest)
        while length < count and (table := next(self.tables, None)) is not None:
            pieces.append(table)
            length += len(table)
        joined = pa.concat_tables(pieces)
        self.rest = joined.slice(count)
        return joined.slice(0, count).combine_chunks()

    def take_through(self, last: str) -> pa.Table:
        """Take the next rows whose ids are not above `last`, of a stream in id order."""
        pieces = [self.rest.slice(0, 0)]
        while (rows := self.rest if len(self.rest) else next(self.tables, None)) is not None:
            count = pc.sum(pc.less_equal(rows["id"], last), min_count=0).as_py()
            pieces.append(rows.slice(0, count))
            self.rest = rows.slice(count)
            if len(self.rest):
                break
        return pa.concat_tables(pieces)


def merge_by_id(streams: Iterable[Iterable[pa.Table]]) -> Iterator[pa.Table]:
    """Merge streams of tables, rows of each in the order of their ids, into one such stream, no table empty.

    At most one table of each stream is held. The tables have the same columns, ``id`` among them.
    """
    sources = [filter(len, stream) for stream in streams]
    waiting = [(table, source) for source in sources if (table := next(source, None)) is not None]
    while waiting:
        # No row up to the smallest last id is still to come, of whichever stream.
        pivot = min(table["id"][-1].as_py() for table, _ in waiting)
        counts = [pc.sum(pc.less_equal(table["id"], pivot)).as_py() for table, _ in waiting]
        ready = [table.slice(0, count) for (table, _), count in zip(waiting, counts, strict=True) if count]
        yield ready[0] if len(ready) == 1 else pa.concat_tables(ready).sort_by("id")
        rests = [
            (table.slice(count) if count < len(table) else next(source, None), source)
            for (table, source), count in zip(waiting, counts, strict=True)
        ]
        waiting = [(rest, source) for rest, source in rests if rest is not None]


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
        except UNREADABLE as error:
            raise UserError(f"{path}: not a readable Parquet file ({first_line(error)})") from None

    def read_row_group(self, *args: Any, **kwargs: Any) -> pa.Table:
        """Read a row group, as pyarrow's method does."""
        with name_damage(self.path):
            return super().read_row_group(*args, **kwargs)

    def read(self, *args: Any, **kwargs: Any) -> pa.Table:
        """Read the file, as pyarrow's method does."""
        with name_damage(self.path):
            return super().read(*args, **kwargs)

    def iter_batches(self, *args: Any, **kwargs: Any) -> Iterator[pa.RecordBatch]:
        """Yield batches of rows, as pyarrow's method does."""
        batches = super().iter_batches(*args, **kwargs)
        while True:
            with name_damage(self.path):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


@contextmanager
def name_damage(path: str | os.PathLike) -> Iterator[None]:
    """Raise a `UserError` that names the file where reading it fails."""
    try:
        yield
    except MemoryError:  # Arrow's is an `ArrowException`, too
        raise
    except UNREADABLE as error:
        fault = f"{path}: damaged ({first_line(error)}); restore it from a copy, or rerun the stage that wrote it"
        raise UserError(fault) from None


def rows_of_groups(metadata: pq.FileMetaData) -> list[int]:
    """Return the rows of each row group, by a file's footer."""
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
