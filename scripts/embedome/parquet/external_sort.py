"""External sort by id: sorted runs on disk, merged range by range in the memory of one range."""

import bisect
import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Batches of a run: the merge holds one batch of each run, and takes ranges of this many batches.
RUN_BATCHES = 200


def sort_order(table: pa.Table) -> np.ndarray:
    """Return the order by id, as UTF-8 bytes, and among rows of one id by their position in the input; int64 [n]."""
    return pc.sort_indices(table, [("id", "ascending"), ("record", "ascending")]).to_numpy()


def in_order(table: pa.Table) -> pa.Table:
    """Return the rows in the order of `sort_order`."""
    table = table.combine_chunks()
    return table.take(pa.array(sort_order(table)))


@dataclass(frozen=True, slots=True)
class RunIndex:
    """Where the batches of a run lie in a scratch file, and the first id of each."""

    path: Path
    places: list[tuple[int, int]]
    """Offset and bytes."""
    first_ids: list[str]


def write_run(folder: Path, table: pa.Table) -> RunIndex:
    """Append a run, rows in the order of `sort_order`, to this process's own file in a folder."""
    path = folder / f"runs-{os.getpid()}"
    batches = table.combine_chunks().to_batches(max_chunksize=-(-len(table) // RUN_BATCHES)) if len(table) else []
    places = []
    with open(path, "ab") as scratch:
        for batch in batches:
            message = batch.serialize()
            places.append((scratch.tell(), message.size))
            scratch.write(message)
    return RunIndex(path, places, [batch["id"][0].as_py() for batch in batches])


def merge_runs(indices: list[RunIndex], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of all runs range by range of ids, none empty, each about as large as a run, batch after batch.

    The caller puts each range in order (`sort_order`). Rows of one id are in one range. Scratch files are read batch
    by batch, each once, the kernel reading ahead, and not mapped into memory: mapped pages count as memory used.

    Parameters
    ----------
    indices : list of RunIndex
    schema : pyarrow.Schema
        Of the runs, with fields ``id`` and ``record``.
    """
    with ExitStack() as stack:
        files = {path: stack.enter_context(path.open("rb", buffering=0)) for path in {index.path for index in indices}}
        runs = [Run(files[index.path], index, schema) for index in indices]
        pivots = sorted(itertools.chain.from_iterable(index.first_ids for index in indices))[RUN_BATCHES::RUN_BATCHES]
        for pivot in [*pivots, None]:
            batches = [batch for run in runs for batch in run.take_below(pivot)]
            if batches:
                yield pa.Table.from_batches(batches)


class Run:
    """Where the merge stands in one run."""

    def __init__(self, file: FileIO, index: RunIndex, schema: pa.Schema) -> None:
        self.file, self.index, self.schema = file, index, schema
        self.n_read = 0
        self.rest: pa.RecordBatch | None = None
        self.announce(0)

    def announce(self, number: int) -> None:
        """Have the kernel read a batch, if it exists, while others are worked on."""
        if number < len(self.index.places) and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.fileno(), *self.index.places[number], os.POSIX_FADV_WILLNEED)

    def read(self, number: int) -> pa.RecordBatch:
        """Read a batch."""
        self.announce(number + 1)
        offset, size = self.index.places[number]
        return pa.ipc.read_record_batch(pa.py_buffer(os.pread(self.file.fileno(), size, offset)), self.schema)

    def take_below(self, pivot: str | None) -> list[pa.RecordBatch]:
        """Take the next rows whose ids are below `pivot`; with None, all that are left."""
        first_ids = self.index.first_ids
        batches = [self.rest] if self.rest else []
        end = len(first_ids) if pivot is None else bisect.bisect_left(first_ids, pivot)
        batches += [self.read(number) for number in range(self.n_read, end)]
        self.n_read = max(self.n_read, end)
        self.rest = None
        if batches and pivot is not None:
            last = batches.pop()
            ids = last["id"]
            cut = bisect.bisect_left(range(len(ids)), pivot, key=lambda row: ids[row].as_py())
            batches.append(last[:cut])
            self.rest = last[cut:]
        return [batch for batch in batches if len(batch)]
