"""Filter, split and shard at several sizes: time, memory and bytes, how they grow, and what UniRef50 would take.

The demo generator makes the input. Each stage runs in a process of its own; its memory is that of all its processes.
Splits are made by hash, by clusters, and by hash with clusters as a filter; clusters are pairs of neighbours, which
takes the most memory, and no other program. The projection is a straight line through the two largest sizes. Run with

    PYTHONPATH=scripts python benchmarks/scale.py [--records N N …]
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from embedome.catalog.table import read_catalog
from embedome.embedding.cost import CostModel
from embedome.embedding.shard import write_shards
from embedome.splits.cluster_table import CLUSTERS
from embedome.splits.split import split_catalog
from embedome.splits.split_methods import SplitSettings
from filter import UNIREF50_RECORDS, embedome, make_release, measure

SHARDS = {"val": 10, "test": 10, "train": 980}
CLUSTER_TABLE = "clusters.parquet"
COST = CostModel(1.5e-5, 2.5e-8, 510)
# The stages of a run with the default settings.
STAGES = ("filter", "split", "shard")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--records", type=int, nargs="+", default=[200_000, 1_000_000], help="sizes of the input")
    options = parser.parse_args()
    found = {records: run_stages(records) for records in sorted(options.records)}
    for records, stages in found.items():
        for stage, (seconds, peak_mb, written) in stages.items():
            rate = f"{records / seconds:>9,.0f} records/s"
            print(f"{records:>11,} {stage:20} {rate} {peak_mb:>7,.0f} MB {written / 1e6:>8,.0f} MB written")
    if len(found) > 1:
        project(*sorted(found.items())[-2:])


def project(smaller: tuple[int, dict], larger: tuple[int, dict]) -> None:
    """Print the growth between two sizes, and where it leads."""
    (few, before), (many, after) = smaller, larger
    total = np.zeros(3)
    for stage in after:
        growth = (np.array(after[stage]) - before[stage]) / (many - few)
        far = after[stage] + growth * (UNIREF50_RECORDS - many)
        print(f"{stage:20} {growth[0] * 1e6:.1f} s a million records, {growth[1] * 2**20:.0f} bytes of memory a record")
        print(f"    at {UNIREF50_RECORDS:,}: {in_words(*far)}")
        if stage in STAGES:
            total = np.array([total[0] + far[0], max(total[1], far[1]), total[2] + far[2]])
    print(f"{', '.join(STAGES)}, one after the other, at {UNIREF50_RECORDS:,}: {in_words(*total)}")


def in_words(seconds: float, peak_mb: float, written: float) -> str:
    """What a stage takes."""
    return f"{seconds / 60:.0f} minutes, {peak_mb / 1024:.1f} GB of memory, {written / 1e9:.1f} GB written"


def run_stages(records: int) -> dict[str, tuple[float, float, int]]:
    """Seconds, peak megabytes and bytes written of each stage."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fasta, found = make_release(folder, records), {}
        works = {
            "filter": embedome,
            "split": split,
            "split by clusters": partial(split, name="grouped", method="cluster", clusters=CLUSTER_TABLE),
            "clusters as a filter": partial(split, name="thinned", clusters=CLUSTER_TABLE, rejects="reject.parquet"),
            "shard": shard,
        }
        for stage, work in works.items():
            if stage == "split":
                pair_up(folder)
            before = size(folder)
            seconds, peak_mb = measure(work, fasta)
            found[stage] = seconds, peak_mb, size(folder) - before
        shards = json.loads((folder / "shards.json").read_text())["splits"]["train"]
        costs = [shard["predicted_s"] for shard in shards]
        print(f"{records:>11,} largest of {len(costs)} shards: {max(costs) * len(costs) / sum(costs):.4f} of the mean")
        return found


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def pair_up(folder: Path) -> None:
    """Write a table of clusters: pairs of distinct sequences whose ids are neighbours."""
    with pq.ParquetWriter(folder / CLUSTER_TABLE, CLUSTERS) as writer:
        start, last = 0, None
        for table in read_catalog(folder / "catalog", ["id", "duplicate_of"]):
            names = table["id"].filter(table["duplicate_of"].is_null()).to_pylist()
            numbers = np.arange(start, start + len(names))
            leaders = []
            for number, name in zip(numbers.tolist(), names, strict=True):
                last = name if number % 2 == 0 else last
                leaders.append(last)
            writer.write_table(pa.Table.from_arrays([names, leaders, numbers // 2], schema=CLUSTERS))
            start += len(names)


def split(fasta: Path, name: str = "split", method: str = "hash", **tables: str) -> None:
    """Split the catalog; `tables` are files of it: clusters, rejects."""
    out = fasta.parent
    outputs = {"splits": out / f"{name}.parquet", "summary": out / f"{name}.json"}
    outputs |= {kind: out / table for kind, table in tables.items()}
    split_catalog(out / "catalog", out / "filter.json", SplitSettings(method, 0, 0.01, 0.01), **outputs)


def shard(fasta: Path) -> None:
    """Write the shards."""
    out = fasta.parent
    sources = (out / name for name in ("catalog", "split.parquet", "split.json"))
    write_shards(*sources, SHARDS, COST, folder=out / "shards", summary=out / "shards.json")


if __name__ == "__main__":
    main()
