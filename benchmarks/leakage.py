"""Leakage of splits by hash, by clusters and by clusters with leaks dropped, on FASTA files of one's own.

    PYTHONPATH=scripts python benchmarks/leakage.py proteins.fasta.gz --val 0.05 --test 0.05

Prints, for each way of splitting, how many held-out sequences have a hit in train at or above some identities.
"""

import argparse
import tempfile
import time
from pathlib import Path

from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records
from embedome.splits.cluster import ClusterSettings, cluster_catalog
from embedome.splits.drop_leaks import drop_leaks
from embedome.splits.held_out import SearchSettings
from embedome.splits.leakage import measure_leakage
from embedome.splits.mmseqs import Mmseqs
from embedome.splits.split import split_catalog
from embedome.splits.split_methods import SplitSettings

SEARCH = SearchSettings(sensitivity=5.7, coverage=0.8, coverage_mode=0, e_value=0.001)


def main() -> None:
    """Filter, cluster, split each way and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fasta", nargs="+")
    parser.add_argument("--val", type=float, default=0.05)
    parser.add_argument("--test", type=float, default=0.05)
    parser.add_argument("--identity", type=float, default=0.5, help="of clusters (default: 0.5)")
    parser.add_argument("--drop-above", type=float, default=0.3, help="identity of leaks (default: 0.3)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Measure each way of splitting."""
    mmseqs = Mmseqs(options.threads)
    catalog, account, clusters = folder / "catalog", folder / "filter.json", folder / "clusters.parquet"
    read = filter_records(options.fasta, Criteria(), catalog=catalog, rejects=folder / "rejects", summary=account)
    start = time.monotonic()
    plan = ClusterSettings("linclust", options.identity, 0.8, 0)
    found = cluster_catalog(catalog, account, plan, clusters=clusters, summary=folder / "cluster.json", mmseqs=mmseqs)
    print(f"{read['kept']:,} records, {read['duplicates']:,} of them duplicates, {found['clusters']:,} clusters")
    print(f"linclust: {time.monotonic() - start:.1f} s; MMseqs2 {found['version']}, {options.threads} threads")
    for method in ("hash", "cluster"):
        files = {"splits": folder / method, "summary": folder / f"{method}.json"}
        split_catalog(catalog, account, SplitSettings(method, 0, options.val, options.test), **files, clusters=clusters)
        measure(folder, method, mmseqs)
    kept = {"splits": folder / "kept", "summary": folder / "kept.json", "rejects": folder / "leaks"}
    drawn = (folder / "cluster", folder / "cluster.json")
    result = drop_leaks(catalog, *drawn, account, SEARCH, options.drop_above, **kept, mmseqs=mmseqs)
    print(f"dropped from train: {result['rejected']['leak']}")
    measure(folder, "kept", mmseqs)


def measure(folder: Path, name: str, mmseqs: Mmseqs) -> None:
    """Measure and print a split's leakage."""
    start = time.monotonic()
    files = {"leakage": folder / "nearest", "summary": folder / "leakage.json"}
    result = measure_leakage(folder / "catalog", folder / name, SEARCH, **files, mmseqs=mmseqs)
    for split, found in result["splits"].items():
        at = "  ".join(f"{each['identity']}: {each['sequences']:,}" for each in found["thresholds"])
        print(f"{name:8} {split:5} of {found['sequences']:,}, hits at {at}  ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
