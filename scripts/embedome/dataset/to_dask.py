"""The rows of a data set as Dask collections: a task per file, loaded when it is computed."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import dask.array
import dask.dataframe
import numpy as np
import pandas as pd
import pyarrow as pa

from embedome.parquet.scan import RowRange, matrices, scan


def dask_array(files: Sequence[tuple[Path, int]], column: str, dimension: int) -> dask.array.Array:
    """Return the vectors of files, a chunk each, float16 [n, D]; `files` are paths with their numbers of rows."""
    load = dask.delayed(load_matrix)
    chunks = [
        dask.array.from_delayed(load(path, rows, column, dimension), (rows, dimension), np.float16)
        for path, rows in files
    ]
    return dask.array.concatenate(chunks) if chunks else dask.array.zeros((0, dimension), np.float16)


def load_matrix(path: Path, rows: int, column: str, dimension: int) -> np.ndarray:
    """Read the vectors of a file's column, float16 [n, D]."""
    return next(matrices([(path, rows)], column, dimension, threads=1))[1]


def dask_frame(pieces: Iterable[RowRange], columns: Sequence[str], schema: pa.Schema) -> dask.dataframe.DataFrame:
    """Return some columns of row ranges, a partition per file."""
    files: dict[Path, list[RowRange]] = {}
    for piece in pieces:
        files.setdefault(piece.path, []).append(piece)
    empty = to_pandas(schema.empty_table().select(columns))
    if not files:
        return dask.dataframe.from_pandas(empty, npartitions=1)
    return dask.dataframe.from_map(load_frame, list(files.values()), columns=columns, meta=empty)


def load_frame(pieces: Sequence[RowRange], columns: Sequence[str]) -> pd.DataFrame:
    """Read some columns of a file."""
    return to_pandas(pa.concat_tables(scan(pieces, columns, threads=1)))


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Return a table as a data frame, in which numbers that are not known do not become floats."""
    frame = table.to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get)
    always = [field.name for field in table.schema if field.type == pa.int32() and not field.nullable]
    return frame.astype(dict.fromkeys(always, np.int32))
