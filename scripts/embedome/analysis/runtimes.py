"""Run times of a run's rules, from the benchmark files that Snakemake writes."""

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedome.analysis.report_tables import write_page, write_tsv

log = logging.getLogger(__name__)


TIME = "time of all (h:mm:ss)"
HEADER = ("rule", "jobs", TIME, "longest job (s)", "largest memory (MB)", "processor time (s)")
# Columns of a benchmark file: seconds, resident memory in MB, seconds of processor time; - or NA where not measured.
SECONDS, MEMORY, PROCESSOR = "s", "max_rss", "cpu_time"


def write_runtimes(
    benchmarks: Mapping[str, Sequence[str | os.PathLike]], table: str | os.PathLike, page: str | os.PathLike
) -> None:
    """Write the time and memory of each rule's jobs, as they last ran.

    Parameters
    ----------
    benchmarks : mapping
        Benchmark files of each rule's jobs; those of jobs that never ran are not there.
    table, page : path
        TSV and HTML file. They differ from run to run, and nothing is made from them.
    """
    jobs = {rule: [path for path in map(Path, files) if path.is_file()] for rule, files in benchmarks.items()}
    rows = [summarise(rule, files) for rule, files in sorted(jobs.items()) if files]
    write_tsv(Path(table), HEADER, rows)
    write_page(Path(page), "Run times", HEADER, rows)
    log.info("run times of %d rules", len(rows))


def read_total(table: Path) -> int:
    """Return the seconds of all jobs, from the table."""
    with open(table, newline="", encoding="utf-8") as handle:
        times = [row[TIME].split(":") for row in csv.DictReader(handle, delimiter="\t")]
    return sum(3600 * int(hours) + 60 * int(minutes) + int(seconds) for hours, minutes, seconds in times)


def summarise(rule: str, files: list[Path]) -> tuple[Any, ...]:
    """Return a rule's line of the table."""
    lines = [line for file in files for line in read_benchmark(file)]
    seconds, memory, processor = ([amount(line[name]) for line in lines] for name in (SECONDS, MEMORY, PROCESSOR))
    whole = round(sum(seconds))
    clock = f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return rule, len(lines), clock, round(max(seconds), 1), round(max(memory)), round(sum(processor), 1)


def read_benchmark(path: Path) -> list[dict[str, str]]:
    """Read the lines of a benchmark file, one for each time that the job was measured."""
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def amount(text: str) -> float:
    """Return a text as a number; 0 where it was not measured."""
    try:
        return float(text)
    except ValueError:
        return 0.0
