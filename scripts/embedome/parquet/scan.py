"""Streams of rows over many files: decoded in threads ahead of the reader, yielded in order, in bounded memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedome.common.errors import UserError
from embedome.common.parallel import map_in_order
from embedome.parquet.row_file import RowFile
from embedome.parquet.vectors import GROUP_ROWS

# A column that is in no file: it stands in the path.
SPLIT = "split"


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows `start` to `stop` of a file, as a rule those of a row group."""

    path: Path
    split: str
    rows: int
    """Of the file."""
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, start: int, stop: int) -> "RowRange":
        """Return some of its rows, counted from its first."""
        return RowRange(self.path, self.split, self.rows, self.start + start, self.start + stop)


def list_row_ranges(folder: Path, split: str, files: Iterable[Mapping[str, Any]]) -> Iterator[RowRange]:
    """Yield the files of a split, cut where row groups are; `files` are entries of the manifest.

    Raises
    ------
    UserError
        Where the row groups of a file do not add up to its rows.
    """
    for file in files:
        groups = file.get("row_groups") or groups_of_one_size(file["rows"])
        if sum(groups) != file["rows"]:
            found, expected = sum(groups), file["rows"]
            raise UserError(
                f"{folder / file['file']}: {found:,} rows in its row groups, but {expected:,} in the manifest; "
                "merge the data set again"
            )
        stop = 0
        for rows in groups:
            start, stop = stop, stop + rows
            yield RowRange(folder / file["file"], split, file["rows"], start, stop)


def groups_of_one_size(rows: int) -> list[int]:
    """Return the rows of each row group, where the manifest lacks them: of residues several are read at once."""
    return [min(GROUP_ROWS, rows - start) for start in range(0, rows, GROUP_ROWS)]


class Footers:
    """The footers of files, each read once: some bytes per row group."""

    def __init__(self) -> None:
        self.known: dict[Path, RowFile] = {}

    def of(self, piece: RowRange) -> RowFile:
        """Return the file of a range of rows.

        Raises
        ------
        UserError
            Where it has other rows than the manifest says.
        """
        if piece.path not in self.known:
            file = RowFile(piece.path)
            if file.metadata.num_rows != piece.rows:
                raise UserError(
                    f"{piece.path}: {file.metadata.num_rows:,} rows, but {piece.rows:,} in the manifest; "
                    "merge the data set again"
                )
            self.known[piece.path] = file
        return self.known[piece.path]


def scan(pieces: Iterable[RowRange], columns: Sequence[str], threads: int) -> Iterator[pa.Table]:
    """Yield some columns of ranges of rows, a table each, in order; at most `threads` + 2 of them in memory.

    `columns` may name `SPLIT`.
    """
    footers = Footers()
    with threads_ahead(threads) as pool:
        tasks = ((footers.of(piece), piece, columns) for piece in pieces)
        yield from map_in_order(pool, read_row_range, tasks, threads + 2)


@contextmanager
def threads_ahead(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads that, where the reader stops early, begins nothing more."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def read_row_range(task: tuple[RowFile, RowRange, Sequence[str]]) -> pa.Table:
    """Read some columns of a range of rows."""
    file, piece, columns = task
    stored = [name for name in columns if name != SPLIT] or ["id"]
    tables = [file.read(group, stored).slice(first, last - first) for group, first, last in find_groups(file, piece)]
    table = pa.concat_tables([file.select(stored).empty_table(), *tables])
    if SPLIT in columns:
        table = table.append_column(SPLIT, pa.array([piece.split] * len(piece), pa.string()))
    return table.select(columns)


def find_groups(file: RowFile, piece: RowRange) -> Iterator[tuple[int, int, int]]:
    """Yield the row groups that a range of rows lies in, and from which to which of their rows."""
    group = int(np.searchsorted(file.starts, piece.start, side="right")) - 1
    while group < len(file.starts) - 1 and file.starts[group] < piece.stop:
        begin, end = file.starts[group], file.starts[group + 1]
        yield group, int(max(piece.start - begin, 0)), int(min(piece.stop, end) - begin)
        group += 1


def matrices(
    files: Sequence[tuple[Path, int]], column: str, dimension: int, threads: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield ids and vectors [n, D] of whole files, given with their rows; vectors are decoded where they stay."""
    footers = Footers()

    def tasks() -> Iterator[tuple[RowFile, int | None, str, np.ndarray, bool]]:
        for path, rows in files:
            file = footers.of(RowRange(path, "", rows, 0, rows))
            whole = np.empty((rows, dimension), np.float16)
            for group in range(len(file.starts) - 1):
                yield file, group, column, whole, group == len(file.starts) - 2
            if not rows:
                yield file, None, column, whole, True

    with threads_ahead(threads) as pool:
        ids: list[str] = []
        for names, whole, last in map_in_order(pool, fill_group, tasks(), threads + 2):
            ids += names.to_pylist()
            if last:
                yield ids, whole
                ids = []


def fill_group(task: tuple[RowFile, int | None, str, np.ndarray, bool]) -> tuple[pa.ChunkedArray, np.ndarray, bool]:
    """Read a row group's ids, and its vectors into their place in the matrix of the file; a file may have none."""
    file, group, column, whole, last = task
    if group is None:
        return pa.chunked_array([], pa.string()), whole, last
    file.fill(group, column, whole[file.starts[group] : file.starts[group + 1]])
    return file.read(group, ["id"])["id"], whole, last
