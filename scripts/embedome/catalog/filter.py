"""Filter stage: FASTA or UniRef XML in, a catalog of kept records sorted by id out; dropped ones with their reasons.

An external sort in two passes: the stream is cut into runs, each checked and sorted by id in a process of its own and
written to a scratch file; then the runs are merged range by range, of which several are sorted and encoded at once.
Memory: a run or a range per process, and for the search for duplicate sequences 8 bytes per kept record, then 44 and an
id per sequence that occurs more than once.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.chunk_groups import group_chunks
from embedome.catalog.criteria import Criteria
from embedome.catalog.identical_sequences import RepeatedDigests
from embedome.catalog.members import write_members
from embedome.catalog.reading import ReadSettings, check_names, check_nucleic
from embedome.catalog.rejects import REJECTS, describe_reasons, list_all_rejects
from embedome.catalog.same_ids import PairList, list_path, reject_repeats
from embedome.catalog.sorted_runs import RUN_SCHEMA, RunTask, SortedRun, make_run
from embedome.catalog.structure_states import count_structures, open_structures
from embedome.catalog.table import (
    CATALOG,
    CATALOG_FILE_GROUPS,
    CATALOG_GROUP_ROWS,
    CATALOG_WITH_STRUCTURE,
    check_own_catalog,
)
from embedome.common.atomic_files import atomic_directory, atomic_path
from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256, read_json, write_json
from embedome.common.log import Progress
from embedome.common.parallel import look_ahead, map_in_order, process_pool
from embedome.common.process import keep_freed_memory
from embedome.common.terms import STRUCTURE
from embedome.parquet.external_sort import merge_runs, sort_order
from embedome.parquet.writer import ParquetSink, write_folder
from embedome.sequences.any_format import is_blank, read_any_chunks
from embedome.sequences.chunk_spool import Spool
from embedome.sequences.dropped_records import write_dropped
from embedome.sequences.structures import Structures

log = logging.getLogger(__name__)


# Text of a run: a worker holds it several times over. Of a chunk, whose records are checked at once: array operations
# cost some 50 us each beside their work (2 MiB or more is as good, 256 KiB takes half as long again).
RUN_BYTES, CHUNK_BYTES = 24 << 20, 4 << 20
STATISTICS = ["id", "length", "n_members", "taxid", "record"]
# What tells whether two records of one id are the same.
NAMED = ["id", "digest", "reason", "detail", "file", "number", "length"]


class SortedRange(NamedTuple):
    """Records of a range of ids, in their order."""

    kept: pa.Table
    dropped: pa.Table
    pairs: pa.Table | None
    """Two sequences of one id, see `same_ids.pair_table`; None where no id is there twice."""


def filter_records(
    fasta: Sequence[str | os.PathLike],
    limits: Criteria,
    *,
    catalog: str | os.PathLike,
    rejects: str | os.PathLike,
    summary: str | os.PathLike,
    members: str | os.PathLike | None = None,
    release: str | os.PathLike | None = None,
    listed: str | os.PathLike | None = None,
    reading: ReadSettings | None = None,
    workers: int = 1,
) -> dict:
    """Filter FASTA or UniRef XML files into a catalog of Parquet files sorted by id.

    Of records with one id and one sequence the first is kept, and the others are rejected as exact repeats.

    Parameters
    ----------
    fasta : sequence of paths
        Files in order; plain or compressed. Their format is detected from their first bytes.
    limits : Criteria
        What a record must meet.
    catalog : path
        Folder for the kept records, ``part-NNNNN.parquet``.
    rejects : path
        Parquet file for the dropped records, each with its reason.
    summary : path
        JSON file for the counts; its content is also returned.
    members : path, optional
        Parquet file for the members of kept clusters, as far as they come from UniRef XML; see `MEMBERS`.
    release : path, optional
        The release.json of a downloaded file, kept in the summary.
    listed : path, optional
        What is wrong with all records, or with their ids, is listed beside this file, in place of `rejects`.
    reading : ReadSettings, optional
    workers : int
        Processes that check records (1: this process does), and threads that then sort them.

    Raises
    ------
    UserError
        Where a file is neither FASTA nor UniRef XML or is damaged, and where it is not the one that was downloaded.
        Where no record is kept, or two sequences have one id: the first is named, and all are listed in a file.
    """
    if not fasta:
        raise UserError("source.fasta: no file is named; expected at least one FASTA file")
    keep_freed_memory()
    reading = reading or ReadSettings()
    with atomic_directory(catalog, check_own_catalog) as folder:
        counts = Counts([Path(path) for path in fasta])
        states = open_structures(reading, folder)
        runs = make_runs(read_tasks(fasta, limits, folder, counts, reading, states), folder, counts, workers)
        if states:
            counts.structure = count_structures(states, (run.with_states for run in runs))
            states.remove()
        check_nucleic([(run.file, run.nucleic) for run in runs], counts.paths, reading)
        with ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(1) as reader:
            ranges = look_ahead(reader, merge_runs([run.records for run in runs], RUN_SCHEMA))
            rows = map_in_order(pool, partial(sort_range, counts), ranges, workers + 1)
            with PairList(list_path(listed or rejects), counts.names) as pairs:
                files = write_sorted(rows, folder, rejects, counts, pool, pairs)
        if members:
            indices = [run.members for run in runs if run.members]
            counts.members = write_members(indices, folder, members, sum(run.n_members for run in runs))
        for path in {run.records.path for run in runs}:
            path.unlink()
        downloaded = read_json(release) if release else None
        if downloaded:
            check_downloaded(counts, downloaded)
        if not counts.kept:
            raise UserError(
                list_all_rejects(rejects, counts.paths, counts.names, counts.rejected, Path(listed or rejects))
            )
        if not listed:
            write_dropped(Path(rejects), [])
        result = counts.summary(files, downloaded, limits.taxa_identity())
    write_json(summary, result)
    log.info(
        "read %s records, kept %s; rejected %s", f"{counts.read:,}", f"{counts.kept:,}", counts.reasons() or "none"
    )
    return result


def check_downloaded(counts: "Counts", release: Mapping[str, Any]) -> None:
    """Fail where the file that was read is not the one that was downloaded and verified."""
    [path], [sha256] = counts.paths, counts.inputs_sha256
    if sha256 != release["sha256"]:
        raise UserError(
            f"{path}: changed since it was downloaded: sha256 {sha256}, by its release.json {release['sha256']}; "
            "delete it and run again"
        )


def source_identity(summary: str | os.PathLike, config_sha256: str | None = None) -> dict[str, Any]:
    """Return where sequences come from, for the provenance of their embeddings.

    Parameters
    ----------
    summary : path
        The filter stage's summary.
    config_sha256 : str, optional
        Digest of the configuration that chose and split them.
    """
    return {**describe_source(read_json(summary)), "config_sha256": config_sha256}


def describe_source(account: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a filter's summary says of where sequences come from."""
    # The same bytes from another mirror, or on another day, are the same.
    release = account["release"] and {k: v for k, v in account["release"].items() if k not in ("url", "date")}
    inputs = [{"file": each["file"], "sha256": each["sha256"]} for each in account["inputs"]]
    found = {"release": release, "inputs": inputs, "taxa": account.get("taxa")}
    if STRUCTURE in account:
        found[STRUCTURE] = {key: account[STRUCTURE][key] for key in ("file", "sha256", "missing")}
    return found


class Counts:
    """The filter's account: what was read, kept, dropped, and which digests occur more than once."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.names = distinct_names(paths)
        self.records = [0] * len(paths)
        self.inputs_sha256: list[str] = []
        self.kept = self.residues = self.duplicates = 0
        self.rejected: dict[str, int] = {}
        self.digest_prefixes: list[np.ndarray] = []
        self.members: dict[str, int] | None = None
        self.structure: dict[str, Any] | None = None

    def add(self, kept: pa.Table, dropped: pa.Table, duplicates: int) -> None:
        """Count rows that were written."""
        self.kept += len(kept)
        self.residues += pc.sum(kept["length"]).as_py() or 0
        self.duplicates += duplicates
        for reason in pc.value_counts(dropped["reason"].combine_chunks()).to_pylist():
            self.rejected[reason["values"]] = self.rejected.get(reason["values"], 0) + reason["counts"]

    @property
    def schema(self) -> pa.Schema:
        """Schema of the catalog."""
        return CATALOG_WITH_STRUCTURE if self.structure else CATALOG

    @property
    def read(self) -> int:
        """Records read."""
        return sum(self.records)

    def reasons(self) -> str:
        """Return the rejected records by reason, as words."""
        return describe_reasons(self.rejected)

    def where(self, file: int, number: int) -> str:
        """Name a record for a message."""
        return f"record {number} of {self.paths[file]}"

    def repeated_prefixes(self) -> np.ndarray:
        """Digest prefixes that occur more than once among the kept records, sorted; forgets all others."""
        prefixes = np.concatenate(self.digest_prefixes) if self.digest_prefixes else np.empty(0, np.uint64)
        self.digest_prefixes.clear()
        prefixes.sort()
        return np.unique(prefixes[1:][prefixes[1:] == prefixes[:-1]])

    def summary(self, catalog: Mapping[Path, str], release: dict | None, taxa: dict) -> dict:
        """Return the account as JSON; fail where it does not add up."""
        dropped = sum(self.rejected.values())
        if self.read != self.kept + dropped:
            raise AssertionError(f"filter: read {self.read} != kept {self.kept} + rejected {dropped}")
        return {
            "format": 1,
            "release": release,
            "inputs": [
                {"file": name, "records": count, "bytes": path.stat().st_size, "sha256": sha256}
                for name, path, count, sha256 in zip(
                    self.names, self.paths, self.records, self.inputs_sha256, strict=True
                )
            ],
            "read": self.read,
            "kept": self.kept,
            "duplicates": self.duplicates,
            "residues": self.residues,
            "rejected": dict(sorted(self.rejected.items())),
            "taxa": taxa,
            "members": self.members,
            "catalog": [{"file": path.name, "sha256": sha256} for path, sha256 in catalog.items()],
            **({STRUCTURE: self.structure} if self.structure else {}),
        }


def read_tasks(
    fasta: Sequence[str | os.PathLike],
    limits: Criteria,
    folder: Path,
    counts: Counts,
    reading: ReadSettings,
    structures: Structures | None = None,
) -> Iterator[RunTask]:
    """Read the files chunk by chunk, and count their records."""
    before = 0
    with Progress("filter", "records") as progress:
        for file, path in enumerate(fasta):
            sha256 = hashlib.sha256()
            if reading.skip_empty and is_blank(path):
                log.warning("%s: holds no record, and is passed over", path)
                counts.inputs_sha256.append(file_sha256(path))
                continue
            for chunks in group_chunks(read_any_chunks(path, CHUNK_BYTES, sha256), RUN_BYTES):
                yield RunTask(path, file, before, chunks, limits, folder, reading.header_ids, structures=structures)
                count = sum(chunk.n_entries for chunk in chunks)
                counts.records[file] += count
                progress.update(count)
            counts.inputs_sha256.append(sha256.hexdigest())
            before += counts.records[file]


def make_runs(tasks: Iterator[RunTask], folder: Path, counts: Counts, workers: int) -> list[SortedRun]:
    """Make sorted runs of each task; where there are several, in processes."""
    first = list(islice(tasks, 2))
    tasks = chain(first, tasks)
    made = make_in_pool(tasks, folder, workers) if min(workers, len(first)) > 1 else map(make_run, tasks)
    runs = []
    for run, prefixes in made:
        runs.append(run)
        check_names(sum(each.nameless for each in runs), counts.paths[run.file])
        counts.digest_prefixes.append(prefixes)
    return runs


def make_in_pool(tasks: Iterator[RunTask], folder: Path, workers: int) -> Iterator[tuple[SortedRun, np.ndarray]]:
    """Make runs of each task in processes, as `make_run`."""
    # One more than the workers: one is waiting.
    under_way = workers + 1
    with process_pool(workers, "embedome.catalog.filter") as pool, Spool(folder, under_way) as spool:
        yield from map_in_order(pool, make_run, (task.through(spool) for task in tasks), under_way)


def sort_range(counts: Counts, batches: pa.Table) -> SortedRange:
    """Put the rows of a range in order: those that are kept, those that are dropped, and two sequences of one id."""
    table = batches.combine_chunks()
    order = sort_order(table)
    reasons, pairs = table, None
    if may_repeat(table["id"].take(pa.array(order))):
        rows, pairs = reject_repeats(table.select(NAMED).take(pa.array(order)), counts.where)
        back = pa.array(np.argsort(order))
        for name in ("reason", "detail"):
            reasons = reasons.set_column(reasons.schema.get_field_index(name), name, rows[name].take(back))
    is_kept = reasons["reason"].is_null().to_numpy()[order]
    return SortedRange(reasons.take(pa.array(order[is_kept])), reasons.take(pa.array(order[~is_kept])), pairs)


def may_repeat(ids: pa.ChunkedArray) -> bool:
    """Return whether an id is that of the next row."""
    names = ids.combine_chunks()
    return bool(pc.any(pc.equal(names[1:], names[:-1])).as_py())


def write_sorted(
    rows: Iterable[SortedRange],
    folder: Path,
    rejects: str | os.PathLike,
    counts: Counts,
    pool: Executor,
    pairs: PairList,
) -> dict[Path, str]:
    """Write the kept rows as catalog files and the dropped ones as rejects; return the digests of the former."""
    with (
        atomic_path(rejects) as path,
        ParquetSink(path, REJECTS, CATALOG_GROUP_ROWS, use_dictionary=["reason", "file"]) as sink,
    ):
        return write_folder(
            folder,
            keep_rows(rows, sink, counts, pairs),
            counts.schema,
            rows=CATALOG_GROUP_ROWS,
            file_groups=CATALOG_FILE_GROUPS,
            pool=pool,
            use_dictionary=["taxon", "name"],
            write_statistics=STATISTICS,
        )


def keep_rows(rows: Iterable[SortedRange], rejects: ParquetSink, counts: Counts, pairs: PairList) -> Iterator[pa.Table]:
    """Count all rows, write those that are dropped and two sequences of one id, and yield those that are kept."""
    duplicates = RepeatedDigests(counts.repeated_prefixes())
    with Progress("sort", "records", counts.read) as progress:
        for kept, dropped, differing in rows:
            if differing is not None:
                pairs.add(differing)
            duplicate_of = duplicates.canonical_ids(kept)
            counts.add(kept, dropped, len(duplicate_of) - duplicate_of.null_count)
            files = pa.array([counts.names[file] for file in dropped["file"].to_pylist()], pa.string())
            index = dropped.schema.get_field_index("file")
            rejects.write(dropped.set_column(index, "file", files).select(REJECTS.names).cast(REJECTS))
            progress.update(len(kept) + len(dropped))
            yield kept.append_column("duplicate_of", duplicate_of).select(counts.schema.names).cast(counts.schema)
    pairs.check(counts.where)


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return names for files: the ends of their paths, as short as distinguishes them.

    Examples
    --------
    >>> distinct_names([Path("/data/GCF_1/protein.faa"), Path("/data/GCF_2/protein.faa")])
    ['GCF_1/protein.faa', 'GCF_2/protein.faa']
    """
    names = [path.name for path in paths]
    for depth in range(2, 1 + max(len(path.parts) for path in paths)):
        if len(set(names)) == len(set(paths)):
            break
        names = [Path(*path.parts[-depth:]).as_posix() for path in paths]
    return names
