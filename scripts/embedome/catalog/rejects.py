"""Lists of rejected records: of the filter, and of later stages that reject records of the catalog."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedome.catalog.table import CATALOG_GROUP_ROWS, read_catalog
from embedome.common.atomic_files import atomic_path
from embedome.common.errors import cut
from embedome.parquet.reader import ParquetFile
from embedome.parquet.writer import ParquetSink
from embedome.sequences.dropped_records import dropped_path, write_dropped
from embedome.sequences.records import FAULTS

# Of the message where no record is kept, and of its list: files and records.
NAMED_FILES, LISTED = 3, 100_000

REJECTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("description", pa.string(), nullable=False),
    ]
)


def describe_reasons(rejected: Mapping[str, int]) -> str:
    """Return numbers of rejected records by reason, as words."""
    return ", ".join(f"{reason}: {count:,}" for reason, count in sorted(rejected.items()))


def list_all_rejects(
    path: str | os.PathLike, files: Sequence[Path], names: Sequence[str], rejected: Mapping[str, int], out: Path
) -> str:
    """List what is wrong with records, as no one was kept, beside `out`; return a message with the first of them.

    Parameters
    ----------
    path : path
        Parquet file of the rejected records.
    files, names : sequences
        Paths of the files, and what the list calls them.
    rejected : mapping
        Their number by reason.
    out : path
        As of `write_dropped`; of very many records the first are listed.
    """
    shown = ", ".join(map(str, files[:NAMED_FILES]))
    shown += f" and {len(files) - NAMED_FILES:,} more" if len(files) > NAMED_FILES else ""
    total = sum(rejected.values())
    if not total:
        return f"{shown}: no record of 0 was kept; expected sequences"
    rows = read_rejects(path, LISTED)
    write_dropped(out, [("rejected", row["id"], row["reason"], row["detail"], row["length"]) for row in rows])
    first = min(rows, key=lambda row: (names.index(row["file"]), row["number"]))
    return (
        f"{shown}: no record of {total:,} was kept ({describe_reasons(rejected)}); record {first['number']} of "
        f"{first['file']}, '{cut(first['id'])}': {first['reason']}, {cut(first['detail'])}; "
        f"{'all' if len(rows) == total else f'{len(rows):,}'} are listed in {dropped_path(out)}"
        f"{'' if rejected.keys() <= FAULTS else '. See the limits in filter'}"
    )


def read_rejects(path: str | os.PathLike, most: int) -> list[dict[str, Any]]:
    """Read the first rows of a list of rejected records, `most` of them at most."""
    file = ParquetFile(path)
    rows: list[dict[str, Any]] = []
    for group in range(file.num_row_groups):
        rows += file.read_row_group(group, use_threads=False).slice(0, most - len(rows)).to_pylist()
    return rows


def write_rejects(
    path: str | os.PathLike,
    catalog: str | os.PathLike,
    inputs: Sequence[Mapping[str, Any]],
    rejected: np.ndarray,
    reason: str,
    details: Callable[[np.ndarray], pa.Array],
) -> None:
    """List rows of the catalog as rejected, in its order.

    Parameters
    ----------
    path : path
        Parquet file.
    catalog : path
    inputs : sequence of mappings
        ``file`` and ``records`` of each input file, as in the filter's summary: where a record was.
    rejected : numpy.ndarray, dtype=bool, shape=(n,)
        Of the catalog's rows.
    reason : str
        Of all of them.
    details : callable
        Returns the details of rows (numbers, ascending).
    """
    ends = np.cumsum([each["records"] for each in inputs])
    files = pa.array([each["file"] for each in inputs], pa.string())
    start = 0
    with (
        atomic_path(path) as temporary,
        ParquetSink(temporary, REJECTS, CATALOG_GROUP_ROWS, use_dictionary=["reason", "file"]) as sink,
    ):
        for table in read_catalog(catalog, ["id", "length", "record", "description"]):
            rows = np.flatnonzero(rejected[start : start + len(table)])
            if len(rows):
                mine = table.take(pa.array(rows))
                record = mine["record"].to_numpy()
                file = np.searchsorted(ends, record, side="right")
                columns = {
                    "id": mine["id"],
                    "reason": pa.array([reason] * len(rows)),
                    "detail": details(rows + start),
                    "file": files.take(pa.array(file)),
                    "number": pa.array(record + 1 - np.concatenate([[0], ends])[file]),
                    "length": mine["length"],
                    "description": mine["description"],
                }
                sink.write(pa.Table.from_arrays(list(columns.values()), schema=REJECTS))
            start += len(table)
