"""Filter, split and shard at several sizes: time, memory and bytes, how they grow, and what UniRef50 would take.

The demo generator makes the input. Each stage runs in a process of its own; its memory is that of all its processes.
The projection is a straight line through the two largest sizes. Run with

    PYTHONPATH=scripts python benchmarks/scale.py [--records N N …]
"""

import argparse
import json
import tempfile
from pathlib import Path

from embedome.cost import CostModel
from embedome.shard import write_shards
from embedome.split import SplitPlan, split_catalog
from filter import UNIREF50_RECORDS, embedome, make_release, measure

SHARDS = {"val": 10, "test": 10, "train": 980}
COST = CostModel(1.5e-5, 2.5e-8, 510)
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
            print(f"{records:>11,} {stage:7} {rate} {peak_mb:>7,.0f} MB {written / 1e6:>8,.0f} MB written")
    if len(found) > 1:
        project(*sorted(found.items())[-2:])


def project(smaller: tuple[int, dict], larger: tuple[int, dict]) -> None:
    """Print the growth between two sizes, and where it leads."""
    (few, before), (many, after) = smaller, larger
    for stage in STAGES:
        growth = [(new - old) / (many - few) for old, new in zip(before[stage], after[stage], strict=True)]
        far = [new + rate * (UNIREF50_RECORDS - many) for new, rate in zip(after[stage], growth, strict=True)]
        print(f"{stage:7} {growth[0] * 1e6:.1f} s a million records, {growth[1] * 2**20:.0f} bytes of memory a record")
        there = f"{far[0] / 60:.0f} minutes, {far[1] / 1024:.1f} GB of memory, {far[2] / 1e9:.1f} GB written"
        print(f"    at {UNIREF50_RECORDS:,}: {there}")


def run_stages(records: int) -> dict[str, tuple[float, float, int]]:
    """Seconds, peak megabytes and bytes written of each stage."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fasta, found = make_release(folder, records), {}
        works = {"filter": embedome, "split": split, "shard": shard}
        for stage, work in works.items():
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


def split(fasta: Path) -> None:
    """Split the catalog by hash."""
    out = fasta.parent
    outputs = {"splits": out / "splits.parquet", "summary": out / "split.json"}
    split_catalog(out / "catalog", out / "filter.json", SplitPlan("hash", 0, 0.01, 0.01), **outputs)


def shard(fasta: Path) -> None:
    """Write the shards."""
    out = fasta.parent
    sources = (out / name for name in ("catalog", "splits.parquet", "split.json"))
    write_shards(*sources, SHARDS, COST, folder=out / "shards", summary=out / "shards.json")


if __name__ == "__main__":
    main()
