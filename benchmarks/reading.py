"""How fast a data set is read, and how many bytes of it, beside pyarrow on the same files, in one run.

The data are random: rows of some structure and noise, written as the embed stage writes them, in a temporary folder.
Scans are warm: the files lie in the page cache, and what is measured is decoding. Look-ups are cold: the kernel is told
to drop the files from its cache, and bytes read are what the process asked for (/proc/self/io). Run with

    PYTHONPATH=scripts python benchmarks/reading.py [--rows N] [--files N] [--dimension D] [--rounds N]
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from embedome.common.parallel import available_cores
from embedome.common.terms import EMBEDDED
from embedome.dataset import Dataset, open_dataset
from embedome.dataset.export_arrays import export_npy
from embedome.dataset.format import SKIPPED, SKIPPED_FILE, embedding_metadata
from embedome.dataset.manifest import write_manifest
from embedome.dataset.part_file import describe_file, write_part
from made_inputs import PROVENANCE, random_axes, random_rows

LOOKUPS = 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the data set (default: 200,000)")
    parser.add_argument("--files", type=int, default=4, help="files that they are in (default: 4)")
    parser.add_argument("--dimension", type=int, default=768, help="D (default: 768)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured (default: 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "dataset"
        folder.mkdir()
        make_dataset(folder, options.files, options.rows // options.files, options.dimension)
        data = open_dataset(folder)
        size = len(data) * data.dimension * 2
        stored = data.describe()["bytes"]
        print(f"{len(data):,} rows of D = {data.dimension}: {size / 1e6:,.0f} MB, {stored / 1e6:,.0f} MB in files")
        scans(data, size, options.rounds)
        lookups(data, options.rounds)


def make_dataset(folder: Path, files: int, rows: int, dimension: int) -> None:
    """Write a data set of one split."""
    generator, entries = np.random.default_rng(0), []
    axes = random_axes(generator, dimension)
    for number in range(files):
        # Ids as UniRef has them: of random accessions, sorted.
        ids = sorted(f"UniRef50_A0A{number:02d}{code:09X}" for code in generator.choice(2**36, rows, replace=False))
        path = folder / "split=train" / f"part-{number:05d}-00000.parquet"
        write_part(path, random_rows(generator, axes, ids), embedding_metadata(PROVENANCE))
        entries.append({**describe_file(path, rows, ids), "file": str(path.relative_to(folder))})
    pq.write_table(SKIPPED.empty_table(), folder / SKIPPED_FILE)
    counts = {"rows": files * rows, "states": {EMBEDDED: files * rows}, "skipped": {}}
    splits = {"train": {**counts, "files": entries, "residues": []}}
    write_manifest(folder, {"rows": files * rows, "dimension": dimension, "splits": splits, "provenance": PROVENANCE})


def scans(data: Dataset, size: int, rounds: int) -> None:
    """All vectors with their ids, each way in turn."""
    paths = [data.folder / file["file"] for file in data.files("train")]
    cores, exported = available_cores(), data.folder.with_suffix(".npy")
    ways: dict[str, Callable[[], object]] = {
        f"pyarrow.parquet.read_table, {cores} threads": lambda: pq.read_table(paths, columns=["id", "embedding"]),
        **{
            f"matrix, {threads} threads": lambda threads=threads: exhaust(data.matrix("train", threads=threads))
            for threads in sorted({1, cores})
        },
        f"iter_batches(rows=1024), {cores} threads": lambda: exhaust(data.iter_batches("train", 1024)),
        "to_torch(rows=1024)": lambda: exhaust(data.to_torch("train", 1024)),
        "export to .npy": lambda: export_npy(data, exported),
    }
    exhaust(data.to_torch("train", 1024))  # imports torch
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, work in ways.items():
            seconds[way].append(timed(work))
    base = statistics.median(seconds[next(iter(ways))])
    print(f"{'scan':45} {'MB/s':>7} {'beside pyarrow':>15}   (median of {rounds}; lowest to highest)")
    for way, each in seconds.items():
        median = statistics.median(each)
        span = f"({size / max(each) / 1e6:,.0f} to {size / min(each) / 1e6:,.0f})"
        print(f"{way:45} {size / median / 1e6:>7,.0f} {base / median:>14.2f}x   {span}")


def lookups(data: Dataset, rounds: int) -> None:
    """Random ids, and ids and lengths of all, from files that are not in the cache."""
    names = [name for table in data.tables(["id"]) for name in table["id"].to_pylist()]
    generator, seconds, counts = random.Random(0), [], []
    for _ in range(rounds):
        ids = generator.sample(names, LOOKUPS)
        drop_from_cache(data.folder)
        before = bytes_read()
        seconds.append(timed(lambda ids=ids: data.get(ids)))
        counts.append(bytes_read() - before)
    median, read = statistics.median(seconds), statistics.median(counts) / 1e6
    print(
        f"get({LOOKUPS} random ids), cold: {median:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), "
        f"{read:,.1f} MB read, {read / LOOKUPS:.2f} MB an id"
    )
    before = bytes_read()
    taken = timed(lambda: exhaust(data.tables(["id", "length"])))
    print(f"ids and lengths of all rows: {taken:.2f} s, {(bytes_read() - before) / 1e6:,.1f} MB read")


def exhaust(items: object) -> None:
    """Go over something, keeping nothing."""
    for _ in items:
        pass


def timed(work: Callable[[], object]) -> float:
    """Seconds that a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bytes_read() -> int:
    """Bytes that this process has asked files for."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def drop_from_cache(folder: Path) -> None:
    """Have the kernel forget the files of a folder."""
    for path in folder.rglob("*.parquet"):
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
