"""Finding rows by id in embedding files that are sorted by id."""

import bisect
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from embedome.tables import open_parquet


def find_rows(path: str | os.PathLike, ids: Sequence[str]) -> pa.Table:
    """Read the rows of a file that have one of the ids, in the file's order.

    Only row groups whose id statistics admit one of the ids are read, and in full only where one is there.

    Parameters
    ----------
    path : path
        An embedding file.
    ids : sequence of str
        Sorted.
    """
    file = open_parquet(path)
    wanted = pa.array(ids, pa.string())
    found = [file.schema_arrow.empty_table()]
    for group in range(file.num_row_groups):
        if not overlaps(ids, file.metadata.row_group(group).column(0).statistics):
            continue
        hits = pc.is_in(file.read_row_group(group, ["id"], use_threads=False)["id"], value_set=wanted)
        if pc.any(hits).as_py():
            found.append(file.read_row_group(group, use_threads=False).filter(hits))
    return pa.concat_tables(found)


def find_in_files(folder: Path, files: Iterable[Mapping[str, Any]], ids: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Read the rows that have one of the ids from the files that may hold them.

    Parameters
    ----------
    folder : path
    files : iterable of mappings
        Entries of a manifest: ``file``, ``rows``, ``first_id``, ``last_id``.
    ids : sequence of str
        Sorted.
    schema : pyarrow.Schema
        Schema of the result, free of the files' own metadata.
    """
    tables = [
        find_rows(folder / file["file"], ids).cast(schema)
        for file in files
        if file["rows"] and within(ids, file["first_id"], file["last_id"])
    ]
    return pa.concat_tables([schema.empty_table(), *tables])


def overlaps(ids: Sequence[str], statistics: object) -> bool:
    """Whether a row group's id statistics admit one of the sorted ids; without statistics it may."""
    if statistics is None or not statistics.has_min_max:
        return True
    return within(ids, statistics.min, statistics.max)


def within(ids: Sequence[str], first: str, last: str) -> bool:
    """Whether one of the sorted ids lies between first and last, both included."""
    position = bisect.bisect_left(ids, first)
    return position < len(ids) and ids[position] <= last
