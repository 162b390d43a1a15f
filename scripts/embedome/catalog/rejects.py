"""Lists of rejected records: of the filter, and of later stages that reject records of the catalog."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from embedome.catalog.table import CATALOG_GROUP_ROWS, read_catalog
from embedome.common.atomic_files import atomic_path
from embedome.parquet.writer import ParquetSink

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
