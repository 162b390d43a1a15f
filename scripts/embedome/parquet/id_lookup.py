"""Finding rows by id in embedding files that are sorted by id."""

import bisect
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedome.common.parallel import map_in_order
from embedome.parquet.row_file import RowFile
from embedome.parquet.scan import threads_ahead


def find_rows(path: str | os.PathLike, ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Read the rows of a file that have one of the ids, in the file's order.

    Ids are read of the row groups whose statistics admit one of them, other columns where one is found, and vectors
    of the pages that hold it.

    Parameters
    ----------
    path : path
        An embedding file, or one of the catalog.
    ids : sequence of str
        Sorted.
    columns : sequence of str, optional
        All if not given.
    """
    file = RowFile(path)
    columns = file.schema.names if columns is None else columns
    wanted = pa.array(ids, pa.string())
    found = [file.select(columns).empty_table()]
    for group in range(len(file.starts) - 1):
        if not overlaps(ids, file.chunk(group, "id").statistics):
            continue
        hits = np.flatnonzero(pc.is_in(file.read(group, ["id"])["id"], value_set=wanted))
        if len(hits):
            found.append(file.read(group, columns, hits))
    return pa.concat_tables(found)


def find_in_files(
    folder: Path, files: Iterable[Mapping[str, Any]], ids: Sequence[str], schema: pa.Schema, threads: int = 1
) -> pa.Table:
    """Read the rows that have one of the ids from the files that may hold them.

    Parameters
    ----------
    folder : path
    files : iterable of mappings
        Entries of a manifest: ``file``, ``rows``, ``first_id``, ``last_id``.
    ids : sequence of str
        Sorted.
    schema : pyarrow.Schema
        Schema of the result: the columns to read.
    threads : int
        Files read at once.
    """
    paths = [folder / file["file"] for file in files if file["rows"] and within(ids, file["first_id"], file["last_id"])]
    with threads_ahead(threads) as pool:
        tables = list(map_in_order(pool, partial(find_rows, ids=ids, columns=schema.names), paths, 2 * threads))
    return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)])


def overlaps(ids: Sequence[str], statistics: pq.Statistics | None) -> bool:
    """Return whether a row group's id statistics admit one of the sorted ids; without statistics it may."""
    if statistics is None or not statistics.has_min_max:
        return True
    return within(ids, statistics.min, statistics.max)


def within(ids: Sequence[str], first: str, last: str) -> bool:
    """Return whether one of the sorted ids lies between first and last, both included."""
    position = bisect.bisect_left(ids, first)
    return position < len(ids) and ids[position] <= last
