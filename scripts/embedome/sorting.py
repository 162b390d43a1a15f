"""External sort by id: sorted runs on disk, merged range by range in the memory of one range."""

import bisect
import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

RUN_ROWS = 100_000
RUN_BYTES = 64 << 20
# A run is written in so many batches: the merge holds one batch of each run, and takes ranges of so many batches.
RUN_BATCHES = 400


def sort_by_id(table: pa.Table) -> pa.Table:
    """Sort rows by id, in the order of UTF-8 bytes, and rows of one id by their position in the input."""
    return table.sort_by([("id", "ascending"), ("record", "ascending")])


class SortedRuns:
    """Sorted tables in one scratch file, and their merge.

    The file is read batch by batch, each once, and not mapped into memory: mapped pages count as memory used.

    Parameters
    ----------
    path : path
        The scratch file; the caller removes it.
    schema : pyarrow.Schema
        With fields ``id`` and ``record``.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.writer = pa.ipc.new_file(str(path), schema)
        self.first_ids: list[list[str]] = []
        """First id of each batch, run by run."""

    def add(self, table: pa.Table) -> None:
        """Write a run: rows in the order of `sort_by_id`, at least one."""
        batches = table.combine_chunks().to_batches(max_chunksize=-(-len(table) // RUN_BATCHES))
        for batch in batches:
            self.writer.write_batch(batch)
        self.first_ids.append([batch["id"][0].as_py() for batch in batches])

    def merge(self) -> Iterator[pa.Table]:
        """Yield the rows of all runs in tables in id order, none empty, each about as large as a run.

        Rows of one id are in one table.
        """
        self.writer.close()
        with pa.OSFile(str(self.path)) as source:
            reader = pa.ipc.open_file(source)
            starts = itertools.accumulate(map(len, self.first_ids), initial=0)
            runs = [Run(reader, start, ids) for start, ids in zip(starts, self.first_ids, strict=False)]
            pivots = sorted(itertools.chain.from_iterable(self.first_ids))[RUN_BATCHES::RUN_BATCHES]
            for pivot in [*pivots, None]:
                batches = [batch for run in runs for batch in run.take_below(pivot)]
                if batches:
                    yield sort_by_id(pa.Table.from_batches(batches).combine_chunks())


class Run:
    """Where the merge stands in one run.

    Parameters
    ----------
    reader : pyarrow.ipc.RecordBatchFileReader
    start : int
        The run's first batch in the file.
    first_ids : list of str
        First id of each of its batches.
    """

    def __init__(self, reader: pa.ipc.RecordBatchFileReader, start: int, first_ids: list[str]) -> None:
        self.reader, self.start, self.first_ids = reader, start, first_ids
        self.n_read = 0
        self.rest: pa.RecordBatch | None = None

    def take_below(self, pivot: str | None) -> list[pa.RecordBatch]:
        """The next rows whose ids are below `pivot`; with None, all that are left."""
        batches = [self.rest] if self.rest else []
        end = len(self.first_ids) if pivot is None else bisect.bisect_left(self.first_ids, pivot)
        batches += [self.reader.get_batch(self.start + number) for number in range(self.n_read, end)]
        self.n_read = max(self.n_read, end)
        self.rest = None
        if batches and pivot is not None:
            last = batches.pop()
            cut = bisect.bisect_left(range(len(last)), pivot, key=lambda row: last["id"][row].as_py())
            batches.append(last[:cut])
            self.rest = last[cut:]
        return [batch for batch in batches if len(batch)]
