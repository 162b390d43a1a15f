"""Rows of an earlier data set among new ones, in the order of the catalog.

Rows that keep their id come in the order they have there. Renamed ones are sorted on disk first. Memory: 18 bytes per
reused row and the names of renamed ones, a row group of each source, and a run of `RUN_ROWS` rows.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.errors import UserError
from embedome.common.terms import SPLITS
from embedome.dataset.dataset import Dataset
from embedome.dataset.format import embedding_metadata
from embedome.dataset.part_file import describe_file, embedding_sink, vectors_finite
from embedome.dataset.reuse import Reuse
from embedome.merging.joined_files import FILE_BYTES
from embedome.parquet.external_sort import RunIndex, in_order, merge_runs, write_run
from embedome.parquet.reader import ParquetFile, RowReader, merge_by_id
from embedome.parquet.vectors import GROUP_ROWS
from embedome.splits.split_table import read_split_catalog

RUN_ROWS = 50_000


class ReusedRows:
    """The reused rows of an earlier data set, as streams in the order of the new ids.

    Parameters
    ----------
    data : Dataset
    reuse : Reuse
    catalog, splits : path
        Of this run.
    scratch : Path
        Folder for sorting.
    """

    def __init__(
        self, data: Dataset, reuse: Reuse, catalog: str | os.PathLike, splits: str | os.PathLike, scratch: Path
    ) -> None:
        self.data, self.scratch, self.identity = data, scratch, reuse.earlier
        codes, names, start = [np.empty(0, np.int8)], [pa.array([], pa.string())], 0
        for table, split in read_split_catalog(catalog, splits, ["id"]):
            first, last = np.searchsorted(reuse.rows, [start, start + len(table)])
            mine = reuse.rows[first:last] - start
            codes.append(split[mine])
            names += table["id"].take(pa.array(mine[reuse.renamed[first:last]])).chunks
            start += len(table)
        # Everything below is in the order of the earlier data set's rows.
        order = np.argsort(reuse.source_rows, kind="stable")
        self.rows = reuse.source_rows[order]
        self.codes = np.concatenate(codes)[order]
        self.renamed = reuse.renamed[order]
        self.names = pa.chunked_array(names).combine_chunks()
        self.name_of = (np.cumsum(reuse.renamed) - 1)[order]
        self.runs = self.sort_renamed()

    def streams(self, split: str) -> list[Iterator[pa.Table]]:
        """Return streams of the rows that are now in a split, each in id order."""
        kept = (self.codes == SPLITS.index(split)) & ~self.renamed
        streams = [(table for table, _ in self.read(name, kept)) for name in self.data.splits]
        return [*streams, self.read_sorted(SPLITS.index(split))]

    def read(self, split: str, wanted: np.ndarray) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Read wanted rows [n] of a split of the earlier data set, a row group at a time, with their places in n."""
        begin = 0
        for name in self.data.splits:
            for entry in self.data.files(name):
                if name == split:
                    yield from self.read_file(self.data.folder / entry["file"], begin, wanted)
                begin += entry["rows"]

    def read_file(self, path: Path, begin: int, wanted: np.ndarray) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """As `read`, of one file, whose first row is `begin`."""
        file = ParquetFile(path)
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            first, last = np.searchsorted(self.rows, [begin, end])
            places = first + np.flatnonzero(wanted[first:last])
            if len(places):
                table = file.read_row_group(group, use_threads=False).take(pa.array(self.rows[places] - begin))
                check_finite(path, table, self.data.poolings)
                yield table.cast(self.data.schema), places
            begin = end

    def sort_renamed(self) -> dict[int, list[RunIndex]]:
        """Write the renamed rows of each split to disk, in runs sorted by their new ids."""
        runs: dict[int, list[RunIndex]] = {code: [] for code in range(len(SPLITS))}
        if not self.renamed.any():
            return runs
        reader = RowReader(self.read_renamed(), self.data.schema.append(pa.field("record", pa.int64())))
        while len(table := reader.take(RUN_ROWS)):
            codes = table["record"].to_numpy()
            for code in np.unique(codes).tolist():
                runs[code].append(write_run(self.scratch, table.filter(pa.array(codes == code)).sort_by("id")))
        return runs

    def read_renamed(self) -> Iterator[pa.Table]:
        """Read the rows of other ids, with their new ones, and in the column `record` their split's place."""
        for split in self.data.splits:
            for table, places in self.read(split, self.renamed & (self.codes < len(SPLITS))):
                renamed = table.set_column(0, table.schema.field(0), self.names.take(pa.array(self.name_of[places])))
                yield renamed.append_column("record", pa.array(self.codes[places].astype(np.int64)))

    def read_sorted(self, code: int) -> Iterator[pa.Table]:
        """Yield the renamed rows of a split in the order of their new ids."""
        if self.runs[code]:
            schema = self.data.schema.append(pa.field("record", pa.int64()))
            for table in merge_runs(self.runs[code], schema):
                yield in_order(table).drop_columns("record")


def check_finite(path: Path, table: pa.Table, names: Sequence[str]) -> None:
    """Refuse rows of an earlier data set whose vectors are not finite."""
    if not vectors_finite(table, names):
        raise UserError(f"{path}: a vector is not finite; check the data set of reuse.dataset by embedome verify")


def merge_in_catalog_order(
    catalog: Iterable[pa.Table], sources: Iterable[Iterable[pa.Table]], schema: pa.Schema
) -> Iterator[pa.Table]:
    """Merge rows of several sources into the order of the catalog.

    Parameters
    ----------
    catalog : iterable of pyarrow.Table
        The rows of a split: id, digest, taxid and n_members.
    sources : iterable of iterables of pyarrow.Table
        Embedding rows, each in id order. Together they have no id that is not in the catalog, and none twice.
    schema : pyarrow.Schema
        Of the embedding rows.

    Yields
    ------
    pyarrow.Table
        Embedding rows, with the catalog's taxid and n_members.

    Raises
    ------
    UserError
        Where a source has an id twice or out of order, one that is not in the catalog, or one of another sequence.
    """
    merged = RowReader(merge_by_id(sources), schema)
    for expected in filter(len, catalog):
        rows = merged.take_through(expected["id"][-1].as_py())
        place = pc.index_in(rows["id"], value_set=expected["id"].combine_chunks())
        mine = expected.take(place)
        wrong = pc.fill_null(pc.not_equal(mine["digest"], rows["digest"]), True)
        ascending = pc.less(rows["id"][:-1], rows["id"][1:])
        if pc.any(wrong, min_count=0).as_py() or not pc.all(ascending, min_count=0).as_py():
            raise changed_rows_error()
        for name in ("taxid", "n_members"):
            position = rows.schema.get_field_index(name)
            rows = rows.set_column(position, rows.schema.field(position), mine[name])
        yield rows
    if len(merged.take(1)):
        raise changed_rows_error()


def changed_rows_error() -> UserError:
    """Return the error for rows that are not the expected ones."""
    return UserError(
        "the rows of the data set of reuse.dataset are not those that the reuse stage found; check it by "
        "embedome verify, and rerun the reuse stage"
    )


def write_files(
    folder: Path, split: str, rows: RowReader, file_bytes: int, provenance: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Write rows of a split into files of about `file_bytes` of vectors, whole row groups each; yield their entries."""
    table = rows.take(GROUP_ROWS)
    row_bytes = sum(2 * field.type.list_size for field in table.schema if pa.types.is_fixed_size_list(field.type))
    file_rows = max(1, (file_bytes or FILE_BYTES) // (row_bytes * GROUP_ROWS)) * GROUP_ROWS
    for number in itertools.count():
        if not len(table):
            return
        name = f"split={split}/part-{number:05d}.parquet"
        ends = [table["id"][0].as_py()]
        with embedding_sink(folder / name, table.schema) as sink:
            while len(table):
                sink.write(table)
                ends[1:] = [table["id"][-1].as_py()]
                table = rows.take(min(GROUP_ROWS, file_rows - sink.rows))
            sink.describe(embedding_metadata(provenance))
        yield {**describe_file(folder / name, sink.rows, ends), "file": name}
        table = rows.take(GROUP_ROWS)
