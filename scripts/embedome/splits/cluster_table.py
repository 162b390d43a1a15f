"""The table of clusters: which records belong together, by their rows in the catalog."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.rows import canonical_rows, is_canonical
from embedome.catalog.table import CATALOG_GROUP_ROWS, read_catalog
from embedome.common.errors import UserError
from embedome.parquet.reader import ParquetFile, RowReader

CLUSTERS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("representative", pa.string(), nullable=False),
        pa.field("cluster", pa.int64(), nullable=False),
    ]
)


class Clusters(NamedTuple):
    """The clusters of a catalog, by row; arrays of `rows.row_type`."""

    number: np.ndarray
    """Cluster of each row, that of its canonical id; shape (n,)."""
    representative: np.ndarray
    """Row of each cluster's representative; shape (k,)."""
    first: np.ndarray
    """Row of each cluster's smallest id; shape (k,)."""
    canonical: np.ndarray
    """Row of each row's canonical id; shape (n,)."""

    @property
    def redundant(self) -> np.ndarray:
        """Whether each row's sequence is another than its cluster's representative; dtype=bool, shape (n,)."""
        return self.representative[self.number] != self.canonical


def read_clusters(catalog: str | os.PathLike, clusters: str | os.PathLike) -> Clusters:
    """Read a table of clusters back.

    Memory: 16 bytes per record, and as `rows.canonical_rows`.

    Raises
    ------
    UserError
        Where it is not of this catalog.
    """
    canonical = canonical_rows(catalog)
    number, representative, first = (np.full_like(canonical, -1) for _ in range(3))
    distinct, leaders = is_canonical(canonical), 0
    broken = UserError(f"{clusters}: not every cluster has one representative; rerun the cluster stage")
    for rows, table in clusters_in_step(catalog, clusters, distinct):
        mine = table["cluster"].to_numpy()
        if len(mine) and not 0 <= mine.min() <= mine.max() < len(first):
            raise broken
        number[rows] = mine
        leads = pc.equal(table["id"], table["representative"]).to_numpy()
        representative[mine[leads]] = rows[leads]
        leaders += int(leads.sum())
        new = np.flatnonzero(first[mine] < 0)[::-1]  # of rows that write to one place the last one stays
        first[mine[new]] = rows[new]
    duplicates = np.flatnonzero(~distinct)
    number[duplicates] = number[canonical[duplicates]]
    k = int(number.max()) + 1
    if leaders != k or (representative[:k] < 0).any():
        raise broken
    return Clusters(number, representative[:k], first[:k], canonical)


def clusters_in_step(
    catalog: str | os.PathLike, clusters: str | os.PathLike, distinct: np.ndarray
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Yield rows of the catalog's canonical ids with their rows of the table of clusters."""
    mismatch = UserError(f"{clusters}: its ids are not those of {catalog}; rerun the cluster stage")
    file = ParquetFile(clusters)
    if file.schema_arrow.names != CLUSTERS.names:
        raise mismatch
    batches = file.iter_batches(CATALOG_GROUP_ROWS, use_threads=False)
    reader = RowReader((pa.Table.from_batches([batch]) for batch in batches), file.schema_arrow)
    start = 0
    for table in read_catalog(catalog, ["id"]):
        mine = np.flatnonzero(distinct[start : start + len(table)])
        rows = reader.take(len(mine))
        if not rows["id"].combine_chunks().equals(table["id"].take(pa.array(mine)).combine_chunks()):
            raise mismatch
        yield mine + start, rows
        start += len(table)
    if len(reader.take(1)):
        raise mismatch
