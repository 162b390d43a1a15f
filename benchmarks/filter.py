"""Records per second and memory of the filter stage beside other tools on the same file, in one run.

The demo generator makes the input. Biopython reads ids and sequences only, `seqkit seq` writes the records again,
`mmseqs createdb` makes a data base (the two where they are installed); the filter also parses headers, digests and
checks every sequence, finds duplicates, and writes a catalog sorted by id. All take turns, round by round, so that a
machine whose speed drifts is the same for all: medians, and of the ratios the range too. Run with

    PYTHONPATH=scripts python benchmarks/filter.py [--records N [N …]] [--rounds N]
"""

import argparse
import gzip
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records
from embedome.sources.demo.release import MAX_FAMILIES, write_release

SAMPLE_S = 0.1
UNIREF50_RECORDS = 60_000_000

Work = Callable[[Path], None]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 400_000], help="sizes of the input")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (default: 3)")
    options = parser.parse_args()
    works = {"Biopython": biopython, "seqkit seq": seqkit, "mmseqs createdb": mmseqs, "filter": embedome}
    for name in ("seqkit", "mmseqs"):
        if not shutil.which(name):
            works = {label: work for label, work in works.items() if not label.startswith(name)}
    print(f"{'records':>10} {'':16} {'records/s':>10} {'peak memory':>12} {'filter is':>10}")
    for records in options.records:
        with tempfile.TemporaryDirectory() as name:
            fasta = make_release(Path(name), records)
            rounds = [take_turns(works, fasta) for _ in range(options.rounds)]
        for label in works:
            seconds = median(each[label][0] for each in rounds)
            peak_mb = max(each[label][1] for each in rounds)
            ratios = [each[label][0] / each["filter"][0] for each in rounds]
            print(
                f"{records:>10,} {label:16} {records / seconds:>10,.0f} {peak_mb:>9,.0f} MB {median(ratios):>9.2f}x"
                f" ({min(ratios):.2f}-{max(ratios):.2f})"
            )
        ours = median(each["filter"][0] for each in rounds)
        minutes = UNIREF50_RECORDS / records * ours / 60
        print(f"{'':10} {UNIREF50_RECORDS:,} records at this rate: {minutes:.0f} minutes")


def make_release(folder: Path, records: int) -> Path:
    """Write a demo release."""
    write_release(folder, sequences=records, families=min(max(1, records // 30), MAX_FAMILIES), seed=0)
    return folder / "uniref50.fasta.gz"


def take_turns(works: Mapping[str, Work], fasta: Path) -> dict[str, tuple[float, float]]:
    """Seconds and megabytes of each, measured once in a folder of its own."""
    measured = {}
    for label, work in works.items():
        with tempfile.TemporaryDirectory(dir=fasta.parent) as folder:
            here = Path(folder) / fasta.name
            here.hardlink_to(fasta)
            measured[label] = measure(work, here)
    return measured


def biopython(fasta: Path) -> None:
    """Read ids and sequences."""
    from Bio.SeqIO.FastaIO import SimpleFastaParser  # here: the others' processes would load it, too

    with gzip.open(fasta, "rt") as handle:
        for title, sequence in SimpleFastaParser(handle):
            title.split(None, 1)[0], len(sequence)


def seqkit(fasta: Path) -> None:
    """Read and write, uncompressed."""
    command = ["seqkit", "seq", "--threads", str(os.cpu_count()), "--out-file", fasta.with_name("seqkit.fasta"), fasta]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def mmseqs(fasta: Path) -> None:
    """Make a data base."""
    subprocess.run(["mmseqs", "createdb", fasta, fasta.with_name("db")], check=True, stdout=subprocess.DEVNULL)


def embedome(fasta: Path) -> None:
    """Filter into a catalog."""
    out = fasta.parent
    outputs = {"catalog": out / "catalog", "rejects": out / "rejects.parquet", "summary": out / "filter.json"}
    filter_records([fasta], Criteria(20), **outputs, workers=os.cpu_count() or 1)


def measure(work: Work, fasta: Path) -> tuple[float, float]:
    """Seconds of a function in a process of its own, and peak resident megabytes of it and its processes."""
    begin = time.perf_counter()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(fasta,))
    process.start()
    peak = 0
    while process.is_alive():
        peak = max(peak, resident(process.pid))
        process.join(SAMPLE_S)
    if process.exitcode:
        raise SystemExit(f"{work.__name__} failed")
    return time.perf_counter() - begin, peak / 2**20


def resident(pid: int) -> int:
    """Bytes in memory of a process and all below it; what they share is counted for each."""
    import psutil  # here: as above

    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


if __name__ == "__main__":
    main()
