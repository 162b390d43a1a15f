"""External sort by id: sorted runs on disk, merged range by range in the memory of one range."""

import bisect
import ctypes
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

RUN_ROWS = 100_000
RUN_BYTES = 64 << 20
# Every so many rows of a run an id is noted, to find where to cut the merge into ranges.
SAMPLE_EVERY = 1000


def sort_by_id(table: pa.Table) -> pa.Table:
    """Sort rows by id, in the order of UTF-8 bytes, and rows of one id by their position in the input."""
    return table.sort_by([("id", "ascending"), ("record", "ascending")])


def write_run(folder: Path, index: int, table: pa.Table) -> Path:
    """Write a sorted table as an Arrow file, which can be mapped into memory and sliced without being read."""
    path = folder / f"{index:05d}.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def merge_runs(paths: Sequence[Path]) -> Iterator[pa.Table]:
    """Merge sorted runs: yield tables in id order, none empty, each about as large as a run."""
    files = [pa.memory_map(str(path)).read_buffer() for path in paths]
    runs = [pa.ipc.open_file(file).read_all() for file in files]
    samples = sorted(run["id"][row].as_py() for run in runs for row in range(0, len(run), SAMPLE_EVERY))
    pivots = samples[RUN_ROWS // SAMPLE_EVERY :: RUN_ROWS // SAMPLE_EVERY]
    starts = [0] * len(runs)
    for pivot in [*pivots, None]:
        release_pages(files)
        ends = [find_id(run, pivot, start) for run, start in zip(runs, starts, strict=True)]
        slices = [run.slice(start, end - start) for run, start, end in zip(runs, starts, ends, strict=True)]
        starts = ends
        table = sort_by_id(pa.concat_tables(slices))
        if len(table):
            yield table


def release_pages(files: Sequence[pa.Buffer]) -> None:
    """Give back the memory of mapped files: pages once read would stay, and count, until the file is unmapped."""
    advise = ctypes.CDLL(None).madvise
    for file in files:
        advise(ctypes.c_void_p(file.address), ctypes.c_size_t(file.size), mmap.MADV_DONTNEED)


def find_id(run: pa.Table, name: str | None, start: int) -> int:
    """First row from `start` on whose id is not below `name`; with None, the end of the run."""
    if name is None:
        return len(run)
    ids = run["id"]
    return bisect.bisect_left(range(len(run)), name.encode(), lo=start, key=lambda row: ids[row].as_py().encode())
