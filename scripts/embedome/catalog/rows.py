"""Rows of the catalog by number: canonical rows, ids of rows, rows of ids."""

import bisect
import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.table import count_rows, read_catalog
from embedome.sequences.record_columns import read_bytes, read_offsets


def row_type(count: int) -> type[np.signedinteger]:
    """Return the type for rows of `count` records, and -1: half as wide as NumPy's own, as long as that is enough."""
    return np.int32 if count < 2**31 else np.int64


def canonical_rows(catalog: str | os.PathLike) -> np.ndarray:
    """Return for each row of the catalog the row of its canonical id, its own where it is no duplicate.

    Memory: 4 bytes per record; meanwhile one more, and for each duplicate some 80 and its canonical id.

    Returns
    -------
    numpy.ndarray, dtype=`row_type`, shape=(n,)
    """
    total = count_rows(catalog)
    rows, duplicate = np.arange(total, dtype=row_type(total)), np.zeros(total, bool)
    named, start = [pa.array([], pa.string())], 0
    for table in read_catalog(catalog, ["duplicate_of"]):
        duplicate[start : start + len(table)] = table["duplicate_of"].is_valid()
        named += table["duplicate_of"].drop_null().chunks
        start += len(table)
    canonical = pa.chunked_array(named)
    ids = canonical.unique().sort()
    rows[duplicate] = rows_of_ids(catalog, ids)[pc.index_in(canonical, value_set=ids).to_numpy()]
    return rows


def is_canonical(canonical: np.ndarray) -> np.ndarray:
    """Return whether each row is that of a canonical id, from `canonical_rows`; dtype=bool, shape (n,)."""
    return canonical == np.arange(len(canonical), dtype=canonical.dtype)


def rows_of_ids(catalog: str | os.PathLike, ids: pa.Array) -> np.ndarray:
    """Return the rows of the given ids, which are sorted and are all in the catalog; dtype=int64, shape (n,)."""
    rows, start, row = np.empty(len(ids), np.int64), 0, 0
    for table in read_catalog(catalog, ["id"]):
        names = table["id"].combine_chunks()
        end = bisect.bisect_right(range(len(ids)), names[-1].as_py(), lo=start, key=lambda at: ids[at].as_py())
        if end > start:
            rows[start:end] = row + pc.index_in(ids[start:end], value_set=names).to_numpy()
        start, row = end, row + len(names)
    return rows


def ids_of_rows(catalog: str | os.PathLike, rows: np.ndarray) -> pa.LargeStringArray:
    """Return the ids of the given rows of the catalog, which are ascending, shape (n,), as one array.

    Each look-up in an array of chunks would make a copy.
    """
    text, ends, row, start = bytearray(), np.zeros(len(rows) + 1, np.int64), 0, 0
    for table in read_catalog(catalog, ["id"]):
        end = int(np.searchsorted(rows, row + len(table)))
        if end > start:
            ids = table["id"].combine_chunks().take(pa.array(rows[start:end] - row))
            ends[start + 1 : end + 1] = len(text) + read_offsets(ids)[1:]
            text += read_bytes(ids).data
        row, start = row + len(table), end
    return pa.LargeStringArray.from_buffers(len(rows), pa.py_buffer(ends), pa.py_buffer(text))


class RowNames:
    """Ids of some rows of the catalog, to be looked up. Memory: 12 bytes and the id for each of them.

    Parameters
    ----------
    catalog : path
    total : int
        Records of the catalog.
    rows : numpy.ndarray, dtype=int, shape=(m,)
        Row numbers in any order, repeats allowed; -1 means no row.
    """

    def __init__(self, catalog: str | os.PathLike, total: int, rows: np.ndarray) -> None:
        chosen = np.zeros(total, bool)
        chosen[rows[rows >= 0]] = True
        self.rows = np.flatnonzero(chosen).astype(row_type(total))
        self.ids = ids_of_rows(catalog, self.rows)

    def of(self, rows: np.ndarray) -> pa.StringArray:
        """Return the id of each of m rows, which are some of those; null for -1."""
        place = pa.array(np.searchsorted(self.rows, rows), mask=rows < 0)
        return self.ids.take(place).cast(pa.string())
