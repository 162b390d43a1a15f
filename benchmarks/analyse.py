"""One pass over a data set: embedome's sums file by file, against all vectors in memory at once.

Random vectors in Parquet files as the workflow writes them; mean, covariance and principal components in double
precision on one thread. What is at once does this alone; embedome counts lengths and norms, hashes vectors and samples
besides. Each run is a process of its own. Run with

    PYTHONPATH=scripts python benchmarks/analyse.py [--rows N] [--dimension D] [--files N] [--rounds N]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from embedome.analysis.dataset_pass import ALL, scan_dataset
from embedome.analysis.principal_components import Components
from embedome.common.dask_workers import DaskWorkers
from embedome.common.process import peak_memory
from embedome.dataset import open_dataset
from embedome.dataset.format import SKIPPED, SKIPPED_FILE, embedding_schema
from embedome.dataset.manifest import write_manifest
from embedome.dataset.part_file import embedding_sink
from embedome.parquet.vectors import vector_array

SPLIT = "train"
SAMPLE = 20_000


def main() -> None:
    """Measure and print a table; or, as a child, compute once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=100_000, help="vectors (default: 100,000)")
    parser.add_argument("--dimension", type=int, default=768, help="of a vector (default: 768)")
    parser.add_argument("--files", type=int, default=10, help="files (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (default: 3)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    print(f"{options.rows:,} vectors of {options.dimension} dimensions in {options.files} files, one thread")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.rows, options.dimension, options.files)
        found = {name: [measure(name, folder) for _ in range(options.rounds)] for name in ("embedome", "at once")}
    for name, runs in found.items():
        seconds, memory = (float(np.median([run[key] for run in runs])) for key in ("seconds", "megabytes"))
        print(f"{name}: {seconds:.1f} s of processor time, {options.rows / seconds:,.0f} vectors/s, {memory:,.0f} MB")


def write(folder: Path, rows: int, dimension: int, files: int) -> None:
    """Write a data set of random vectors."""
    chance, entries = np.random.default_rng(0), []
    (folder / f"split={SPLIT}").mkdir()
    for number in range(files):
        count = rows // files
        ids = [f"UniRef50_{number:05d}{row:07d}" for row in range(count)]
        plain = {"digest": ids, "state": ["embedded"] * count, "taxid": [9606] * count, "n_members": [1] * count}
        lengths = dict.fromkeys(("length", "n_residues_used"), chance.integers(20, 500, count))
        vectors = vector_array(chance.normal(size=(count, dimension)).astype(np.float16))
        schema = embedding_schema(dimension)
        table = pa.table({"id": ids, **plain, **lengths, "embedding": vectors}).select(schema.names).cast(schema)
        name = f"split={SPLIT}/part-{number:05d}.parquet"
        with embedding_sink(folder / name, schema) as sink:
            sink.write(table)
        entries.append({"file": name, "rows": count, "bytes": (folder / name).stat().st_size})
    total = sum(entry["rows"] for entry in entries)
    split = {"rows": total, "states": {"embedded": total}, "skipped": {}, "files": entries, "residues": []}
    about = {"dimension": dimension, "rows": total, "splits": {SPLIT: split}}
    write_manifest(folder, {**about, "provenance": {"pooling": ["mean"]}})
    pq.write_table(SKIPPED.empty_table(), folder / SKIPPED_FILE)


def measure(name: str, folder: str) -> dict[str, float]:
    """Run a child, and give what it says."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--child", name, folder]
    return json.loads(subprocess.run(command, env={**os.environ, **one}, check=True, capture_output=True).stdout)


def child(name: str, folder: str) -> None:
    """Compute the components and print time and peak memory."""
    start = time.process_time()
    data = open_dataset(folder)
    if name == "embedome":
        Components(scan_dataset(data, SAMPLE, DaskWorkers()).with_all()[ALL].moments)
    else:
        vectors = np.concatenate([matrix for _, matrix in data.matrix()]).astype(np.float64)
        np.linalg.eigh(np.cov(vectors.T, bias=True))
    print(json.dumps({"seconds": time.process_time() - start, "megabytes": peak_memory() / 1e6}))


if __name__ == "__main__":
    main()
