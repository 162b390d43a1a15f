"""The table of splits: written, and read in step with the catalog."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.table import CATALOG_GROUP_ROWS, read_catalog
from embedome.common.atomic_files import atomic_path
from embedome.common.errors import UserError
from embedome.common.terms import SPLITS
from embedome.parquet.reader import ParquetFile
from embedome.parquet.writer import ParquetSink

# The mark of a record that is in the catalog and in no split.
DROPPED = "rejected"
SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("split", pa.string(), nullable=False)])
# A multiple of the catalog's row groups, so that the two files can be read in step.
GROUP_ROWS = 8 * CATALOG_GROUP_ROWS


def write_splits(catalog: str | os.PathLike, codes: np.ndarray, splits: str | os.PathLike) -> dict[str, dict[str, int]]:
    """Write the split of each row of the catalog; return the counts of each split and of the records in none.

    Parameters
    ----------
    catalog : path
    codes : numpy.ndarray, dtype=int8, shape=(n,)
        Index of each row in `SPLITS`, or `REJECTED`.
    splits : path
        Parquet file.
    """
    names = (*SPLITS, DROPPED)
    counts = {name: {"sequences": 0, "duplicates": 0, "residues": 0} for name in names}
    start = 0
    with atomic_path(splits) as path, ParquetSink(path, SCHEMA, GROUP_ROWS, use_dictionary=["split"]) as sink:
        for table in read_catalog(catalog, ["id", "length", "duplicate_of"]):
            mine = codes[start : start + len(table)]
            start += len(table)
            sink.write(pa.Table.from_arrays([table["id"], pa.array(names).take(pa.array(mine))], schema=SCHEMA))
            count(counts, table, mine)
    return counts


def count(counts: dict[str, dict[str, int]], table: pa.Table, codes: np.ndarray) -> None:
    """Add a table's rows to the counts of their splits."""
    duplicate = table["duplicate_of"].is_valid().to_numpy()
    lengths = table["length"].to_numpy()
    for code, name in enumerate(counts):
        mine = codes == code
        counts[name]["sequences"] += int(mine.sum())
        counts[name]["duplicates"] += int((mine & duplicate).sum())
        counts[name]["residues"] += int(lengths[mine].sum())


def read_split_catalog(
    catalog: str | os.PathLike, splits: str | os.PathLike, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yield the catalog a row group at a time, with each row's index in `SPLITS`, or `REJECTED`.

    Raises
    ------
    UserError
        Where the two files do not list the same ids.
    """
    batches = ParquetFile(splits).iter_batches(CATALOG_GROUP_ROWS, use_threads=False)
    mismatch = UserError(f"{splits}: its ids are not those of {catalog}; rerun the split stage")
    for table in read_catalog(catalog, columns):
        batch = next(batches, None)
        if batch is None or batch.schema.names != SCHEMA.names:
            raise mismatch
        if not table["id"].combine_chunks().equals(batch["id"]):
            raise mismatch
        found = pc.index_in(batch["split"], value_set=pa.array([*SPLITS, DROPPED]))
        if found.null_count:
            raise mismatch
        yield table, found.to_numpy().astype(np.int8)
    if next(batches, None) is not None:
        raise mismatch
