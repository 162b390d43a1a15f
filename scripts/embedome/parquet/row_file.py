"""One embedding file, read row group by row group, by several threads at once; only what is asked for is read."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedome.parquet.file_format import read_about
from embedome.parquet.reader import ParquetFile, name_damage, rows_of_groups
from embedome.parquet.vector_pages import OtherLayoutError, read_chunk, read_rows_of_chunk
from embedome.parquet.vectors import vector_array, vector_matrix


class RowFile:
    """The footer of an embedding file, and readers of its row groups.

    Attributes
    ----------
    schema : pyarrow.Schema
        Without the file's metadata.
    starts : numpy.ndarray, dtype=int64, shape=(groups + 1,)
        First row of each row group; last the number of rows.

    Raises
    ------
    UserError
        Where the file is missing, no Parquet file or of an unknown format; readers raise it where a page is damaged.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        file = ParquetFile(path)
        read_about(path, file.metadata.metadata)
        self.path = Path(path)
        self.metadata = file.metadata
        self.schema = file.schema_arrow.remove_metadata()
        self.starts = np.concatenate([[0], np.cumsum(rows_of_groups(file.metadata), dtype=np.int64)])
        names = [file.metadata.schema.column(number).path for number in range(file.metadata.num_columns)]
        self.numbers = {name.split(".")[0]: number for number, name in enumerate(names)}

    def read(self, group: int, columns: Sequence[str], wanted: np.ndarray | None = None) -> pa.Table:
        """Read some columns of a row group.

        Parameters
        ----------
        group : int
        columns : sequence of str
        wanted : numpy.ndarray, dtype=int64, optional
            Row numbers in the group, ascending; all if not given.
        """
        vectors = [name for name in columns if is_vector(self.schema.field(name).type)]
        arrays = {name: vector_array(self.vectors(group, name, wanted)) for name in vectors}
        others = [name for name in columns if name not in vectors]
        if others:
            table = self.arrow(group, others)
            arrays |= {name: table[name] if wanted is None else table[name].take(pa.array(wanted)) for name in others}
        return pa.table({name: arrays[name] for name in columns}, self.select(columns))

    def select(self, columns: Sequence[str]) -> pa.Schema:
        """Return the schema of some columns."""
        return pa.schema([self.schema.field(name) for name in columns])

    def vectors(self, group: int, name: str, wanted: np.ndarray | None = None) -> np.ndarray:
        """Read vectors of a row group, float16 [n, D], all or those of the `wanted` rows."""
        rows = int(self.starts[group + 1] - self.starts[group])
        dimension = self.schema.field(name).type.list_size
        if wanted is None:
            out = np.empty((rows, dimension), np.float16)
            self.fill(group, name, out)
            return out
        with self.open_descriptor() as descriptor:
            try:
                return read_rows_of_chunk(descriptor, self.chunk(group, name), rows, dimension, wanted)
            except OtherLayoutError:
                return vector_matrix(self.arrow(group, [name])[name])[wanted]

    def fill(self, group: int, name: str, out: np.ndarray) -> None:
        """Read the vectors of a row group into a float16 matrix [n, D]."""
        with self.open_descriptor() as descriptor:
            try:
                read_chunk(descriptor, self.chunk(group, name), out)
            except OtherLayoutError:
                out[:] = vector_matrix(self.arrow(group, [name])[name])

    def chunk(self, group: int, name: str) -> pq.ColumnChunkMetaData:
        """Return what the footer says of a column in a row group."""
        return self.metadata.row_group(group).column(self.numbers[name])

    def arrow(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Read some columns of a row group by pyarrow."""
        with name_damage(self.path):
            # A reader of its own: one cannot be used by two threads.
            table = ParquetFile(self.path, self.metadata).read_row_group(group, columns, use_threads=False)
            expected = self.starts[group + 1] - self.starts[group]
            if len(table) != expected:
                raise OSError(f"{len(table)} rows in row group {group}; expected {expected}")
        return table

    @contextmanager
    def open_descriptor(self) -> Iterator[int]:
        """Open the file and yield its descriptor."""
        with name_damage(self.path), open(self.path, "rb", buffering=0) as handle:
            yield handle.fileno()


def is_vector(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds one vector per row, none of them null."""
    return pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float16()


def read_file(path: str | os.PathLike) -> pa.Table:
    """Read all rows of an embedding file, without its metadata.

    Raises
    ------
    UserError
        As `RowFile`.
    """
    file = RowFile(path)
    names = file.schema.names
    groups = [file.read(group, names) for group in range(len(file.starts) - 1)]
    return pa.concat_tables([file.select(names).empty_table(), *groups])
