"""Merge and verify beside what they cannot be faster than: reading the same files once.

Shards of one part each, of random vectors with some structure, are written as the embed stage writes them, with a
catalog to check them against. Merge runs in a process of its own, whose peak memory is printed: once with parts linked,
once with parts joined into larger files. Beside it all parts are read once by pyarrow with all threads. Then
`embedome verify`'s check runs beside `sha256sum` on the same files. The files lie in the page cache, as far as they go
into it. Last, random ids are looked up in the joined files, cold. Run with

    PYTHONPATH=scripts python benchmarks/merge.py [--shards N] [--rows N] [--dimension D] [--rounds N] [--folder DIR]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from embedome.catalog.table import CATALOG, CATALOG_GROUP_ROWS
from embedome.common.dask_workers import DaskWorkers
from embedome.common.json_files import write_json
from embedome.common.parallel import available_cores
from embedome.common.process import peak_memory
from embedome.common.terms import SPLITS
from embedome.dataset import open_dataset
from embedome.dataset.format import SKIPPED, embedding_metadata
from embedome.dataset.part_file import describe_file, write_part
from embedome.dataset.verify import verify_dataset
from embedome.merging.merge import merge_shards
from embedome.parquet.file_format import FILE_FORMAT
from embedome.parquet.writer import ParquetSink
from embedome.splits.split_table import SCHEMA
from made_inputs import PROVENANCE, random_axes, random_rows
from reading import lookups, timed


def main() -> None:
    """Measure and print; or, as a child, merge once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shards", type=int, default=20, help="shards (default: 20)")
    parser.add_argument("--rows", type=int, default=50_000, help="rows of each (default: 50,000)")
    parser.add_argument("--dimension", type=int, default=768, help="D (default: 768)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured (default: 3)")
    parser.add_argument("--folder", help="where the files go (default: a temporary folder)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        merge_once(Path(options.child[0]), int(options.child[1]))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        parts = make_shards(folder, options.shards, options.rows, options.dimension)
        size = sum(path.stat().st_size for path in parts) / 1e6
        print(f"{len(parts)} parts of {options.rows:,} rows, D = {options.dimension}: {size:,.0f} MB")
        for _ in range(options.rounds):
            measure(folder, parts, size)
        for name, seconds in SECONDS.items():
            ratio = statistics.median(one / two for one, two in zip(seconds, SECONDS[BASE[name]], strict=True))
            median = statistics.median(seconds)
            print(f"{name:28} {median:7.1f} s {size / median:7,.0f} MB/s   x {ratio:.2f} of {BASE[name]}")
        print(f"peak memory of merge: linked {max(PEAKS[0]):,.0f} MB, joined {max(PEAKS[1]):,.0f} MB")
        lookups(open_dataset(folder / "dataset"), 5)


READ, LINKED, JOINED, VERIFY, SHA = "read by pyarrow", "merge, linked", "merge, joined", "verify", "sha256sum"
BASE = {READ: READ, LINKED: READ, JOINED: READ, VERIFY: SHA, SHA: SHA}
SECONDS: dict[str, list[float]] = {name: [] for name in BASE}
PEAKS: tuple[list[float], list[float]] = [], []


def measure(folder: Path, parts: list[Path], size: float) -> None:
    """One round of each side."""
    SECONDS[READ].append(timed(lambda: read_all(parts)))
    for place, (name, file_mb) in enumerate(((LINKED, 0), (JOINED, 384))):
        command = [sys.executable, __file__, "--child", str(folder), str(file_mb)]
        seconds, peak = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        SECONDS[name].append(seconds)
        PEAKS[place].append(peak)
    files = sorted((folder / "dataset").rglob("part-*.parquet"))
    SECONDS[VERIFY].append(timed(lambda: verify_dataset(folder / "dataset", available_cores())))
    SECONDS[SHA].append(timed(lambda: sha256sums(files)))


def read_all(parts: list[Path]) -> None:
    """Read files one by one with all threads, keeping nothing."""
    for path in parts:
        pq.read_table(path, memory_map=False)


def sha256sums(files: list[Path]) -> None:
    """Run sha256sum on files, as many at once as there are cores."""
    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(lambda path: subprocess.run(["sha256sum", path], check=True, capture_output=True), files))


def merge_once(folder: Path, file_mb: int) -> None:
    """Merge, and print seconds and peak memory in megabytes."""
    manifests = sorted((folder / "embeddings").glob("*/*.json"))
    sources = (folder / name for name in ("shards.json", "catalog", "splits.parquet"))
    workers = DaskWorkers(threads=available_cores())
    begin = time.perf_counter()
    merge_shards(manifests, *sources, folder / "dataset", file_mb=file_mb, workers=workers)
    seconds = time.perf_counter() - begin
    print(json.dumps([seconds, peak_memory() / 1e6]))


def make_shards(folder: Path, shards: int, rows: int, dimension: int) -> list[Path]:
    """Write parts, manifests, catalog and splits; give the parts."""
    generator = np.random.default_rng(0)
    # Drawn once: the shards differ in their ids.
    drawn = random_rows(generator, random_axes(generator, dimension), [""] * rows)
    (folder / "catalog").mkdir()
    listed, parts = [], []
    with (
        pq.ParquetWriter(folder / "splits.parquet", SCHEMA) as splits,
        ParquetSink(folder / "catalog" / "part-00000.parquet", CATALOG, CATALOG_GROUP_ROWS) as catalog,
    ):
        for number in range(shards):
            ids = pa.array([f"UniRef50_A0A{number:03d}{row:06d}" for row in range(rows)])
            table = drawn.set_column(0, drawn.schema.field("id"), ids)
            path = folder / "embeddings" / "train" / f"{number:05d}-00000.parquet"
            write_part(path, table, embedding_metadata(PROVENANCE, SKIPPED.empty_table(), "made"))
            write_manifest(path, table)
            catalog.write(catalog_rows(table))
            splits.write_table(pa.table([table["id"], ["train"] * rows], schema=SCHEMA))
            listed.append({"shard": f"{number:05d}", "sequences": rows, "content_sha256": "made"})
            parts.append(path)
    splits = {name: listed if name == "train" else [] for name in SPLITS}
    write_json(folder / "shards.json", {"splits": splits, "reused": dict.fromkeys(SPLITS, 0)})
    return parts


def write_manifest(path: Path, table: pa.Table) -> None:
    """Write the manifest of a shard of one part."""
    entry = describe_file(path, len(table), table["id"].to_pylist())
    entry |= {"fingerprint": "made", "sequences": len(table), "per_residue": None}
    manifest = {"format": FILE_FORMAT, "provenance": PROVENANCE, "content_sha256": "made", "parts": [entry]}
    write_json(path.with_name(f"{path.stem[:5]}.json"), manifest)


def catalog_rows(table: pa.Table) -> pa.Table:
    """The rows of the catalog; what merge does not read of it is zero."""
    columns = {name: table[name] for name in ("id", "digest", "length", "n_members", "taxid")}
    filled = [
        columns.get(field.name, pa.nulls(len(table), field.type))
        if field.nullable or field.name in columns
        else pa.array(np.zeros(len(table), int)).cast(pa.string()).cast(field.type)
        for field in CATALOG
    ]
    return pa.table(filled, schema=CATALOG)


if __name__ == "__main__":
    main()
