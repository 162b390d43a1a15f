"""Records per second and memory of the filter stage, and of a Biopython loop over the same file, in one run.

The demo generator makes the input. The loop reads ids and sequences only; the filter also parses headers, digests and
checks every sequence, finds duplicates, and writes a catalog sorted by id. Run with

    PYTHONPATH=scripts python benchmarks/filter.py [--records N [N …]]
"""

import argparse
import gzip
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from Bio.SeqIO.FastaIO import SimpleFastaParser
from embedome.demo import write_release
from embedome.filter import filter_records
from embedome.limits import Limits


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 400_000], help="sizes of the input")
    options = parser.parse_args()
    print(f"{'records':>10} {'':12} {'records/s':>10} {'peak memory':>12}")
    for records in options.records:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_release(folder, sequences=records, families=max(1, records // 30), seed=0)
            fasta = folder / "uniref50.fasta.gz"
            speeds = {}
            for label, work in (("Biopython", biopython), ("filter", embedome)):
                seconds, peak_mb = measure(work, fasta)
                speeds[label] = records / seconds
                print(f"{records:>10,} {label:12} {speeds[label]:>10,.0f} {peak_mb:>9,.0f} MB")
            print(f"{'':10} ratio {speeds['filter'] / speeds['Biopython']:.2f}")


def biopython(fasta: Path) -> None:
    """Read ids and sequences."""
    with gzip.open(fasta, "rt") as handle:
        for title, sequence in SimpleFastaParser(handle):
            title.split(None, 1)[0], len(sequence)


def embedome(fasta: Path) -> None:
    """Filter into a catalog."""
    out = fasta.parent
    filter_records(
        [fasta], Limits(20), catalog=out / "catalog", rejects=out / "rejects.parquet", summary=out / "filter.json"
    )


def measure(work: Callable[[Path], None], fasta: Path) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a function in a process of its own."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=measured, args=(work, fasta, results))
    process.start()
    process.join()
    return results.get()


def measured(work: Callable[[Path], None], fasta: Path, results: "multiprocessing.SimpleQueue") -> None:
    """Run in the process that is measured."""
    start = time.perf_counter()
    work(fasta)
    results.put((time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


if __name__ == "__main__":
    main()
