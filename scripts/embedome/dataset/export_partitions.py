"""A copy of a data set whose files are divided by one more column than the split, for readers that prune by it."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from embedome.common.atomic_files import atomic_directory
from embedome.common.counts import check_equal
from embedome.common.disk_space import check_room
from embedome.common.errors import UserError
from embedome.common.log import Progress
from embedome.common.outputs import check_outside
from embedome.dataset.dataset import Dataset
from embedome.dataset.export_arrays import ITEM_BYTES, count_rows
from embedome.dataset.format import COLUMN_OPTIONS, vector_columns
from embedome.parquet.scan import SPLIT
from embedome.parquet.vectors import GROUP_ROWS
from embedome.parquet.writer import PAGE_OPTIONS

# Each value has a file under way for each split, and a row group of it in memory.
MOST_VALUES = 100
MOST_FILE_ROWS = 32 * GROUP_ROWS
# Ids, digests and numbers of a row, about.
ROW_BYTES = 80


def export_partitions(data: Dataset, out: Path, column: str, split: str | None = None) -> int:
    """Write rows to ``out/split=<split>/<column>=<value>/part-<N>.parquet``, in id order below each value.

    The column stands in the folders' names and no longer in the files, as is usual with Hive partitions; rows without
    a value are below ``__HIVE_DEFAULT_PARTITION__``. Encodings are those of the data set, see docs/format.md. Memory is
    a row group for each value, and what Arrow holds back while the disk writes (2 GB were seen, however many rows).

    Parameters
    ----------
    data : Dataset
    out : path
        A new folder. It is there only when it is whole.
    column : str
        Any but the id and the vectors.
    split : str, optional
        Of all splits, if not given.

    Returns
    -------
    int
        Rows.

    Raises
    ------
    UserError
        Where a name is wrong, the column has more than 100 values, the folder is there already, or the disk has too
        little room.
    """
    check_outside(out)
    values = distinct_values(data, column, split)
    if out.exists():
        raise UserError(f"{out} is there already; expected the name of a new folder")
    rows = count_rows(data, split)
    vectors = len(data.poolings) * data.dimension * ITEM_BYTES
    check_room(out, rows * (vectors + ROW_BYTES))
    schema = pa.schema([*data.schema, pa.field(SPLIT, pa.string())])
    # Arrow wants one at least, where there is no row, too.
    folders = max(1, len(data.splits) * len(values))
    keys = pa.schema([schema.field(SPLIT), schema.field(column)])
    with atomic_directory(out) as folder, Progress("export", "sequences", rows) as progress:

        def batches() -> Iterator[pa.RecordBatch]:
            for table in data.tables(schema.names, split):
                yield from table.cast(schema).to_batches()
                progress.update(len(table))

        kind = ds.ParquetFileFormat()
        ds.write_dataset(
            pa.RecordBatchReader.from_batches(schema, batches()),
            folder,
            format=kind,
            partitioning=ds.partitioning(keys, flavor="hive"),
            basename_template="part-{i}.parquet",
            file_options=kind.make_write_options(**COLUMN_OPTIONS, **PAGE_OPTIONS),
            preserve_order=True,
            max_partitions=folders,
            max_open_files=folders + 1,
            min_rows_per_group=GROUP_ROWS,
            max_rows_per_group=GROUP_ROWS,
            max_rows_per_file=MOST_FILE_ROWS,
        )
        written = ds.dataset(folder).count_rows()
        check_equal("rows", rows, "written", written)
    return rows


def distinct_values(data: Dataset, column: str, split: str | None) -> pa.Array:
    """Return the distinct values of a column, null among them.

    Raises
    ------
    UserError
        Where the column cannot be divided by.
    """
    data.check_columns([column])
    if column == "id" or column in vector_columns(data.poolings).values():
        raise UserError(f"{data.name}: files cannot be divided by {column!r}, which differs from row to row")
    found = pa.array([], data.schema.field(column).type)
    for table in data.tables([column], split):
        found = pc.unique(pa.chunked_array([found, *table[column].chunks]))
        if len(found) > MOST_VALUES:
            raise UserError(
                f"{data.name}: the column {column!r} has more than {MOST_VALUES} values; "
                "filter the rows, or divide them by another column"
            )
    return found
