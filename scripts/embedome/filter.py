"""Filter stage: FASTA files in, a catalog of kept records sorted by id out; every dropped record with its reason.

An external sort in two passes: the stream is cut into runs, each sorted by id and written to a scratch folder;
then the runs are merged range by range. Memory: one run or one range, and 8 bytes per kept record for the search
for duplicate sequences.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog import CATALOG, CATALOG_FILE_ROWS, CATALOG_GROUP_ROWS
from embedome.errors import UserError
from embedome.fasta import read_entries
from embedome.files import atomic_directory, atomic_path, file_sha256, read_json, write_json
from embedome.headers import parse_description
from embedome.log import Progress
from embedome.records import Record, check_entry, refget_digest
from embedome.sorting import RUN_BYTES, RUN_ROWS, SortedRuns, sort_by_id
from embedome.tables import FolderSink, ParquetSink

log = logging.getLogger(__name__)

STATISTICS = ["id", "length", "n_members", "taxid", "record"]

REJECTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("description", pa.string(), nullable=False),
    ]
)
RUN = pa.schema(
    [
        *(field.with_nullable(True) for field in CATALOG if field.name != "duplicate_of"),
        pa.field("digest_prefix", pa.uint64()),
        pa.field("file", pa.int32()),
        pa.field("number", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a record must meet to be kept.

    Parameters
    ----------
    min_length, max_length : int
        Residues; `max_length` None for no limit.
    """

    min_length: int = 1
    max_length: int | None = None

    def fault(self, record: Record) -> tuple[str, str] | None:
        """Reason and detail for which a sound record is dropped, if any."""
        length = len(record.sequence)
        if length < self.min_length:
            return "too-short", f"{length} residues; at least {self.min_length}"
        if self.max_length is not None and length > self.max_length:
            return "too-long", f"{length} residues; at most {self.max_length}"
        return None


def filter_records(
    fasta: Sequence[str | os.PathLike],
    limits: Limits,
    *,
    catalog: str | os.PathLike,
    rejects: str | os.PathLike,
    summary: str | os.PathLike,
    release: str | os.PathLike | None = None,
) -> dict:
    """Filter FASTA files into a catalog of Parquet files sorted by id.

    Parameters
    ----------
    fasta : sequence of paths
        Files in order; plain, gzip or zstandard.
    limits : Limits
        What a record must meet.
    catalog : path
        Folder for the kept records, ``part-NNNNN.parquet``.
    rejects : path
        Parquet file for the dropped records, each with its reason.
    summary : path
        JSON file for the counts; its content is also returned.
    release : path, optional
        The release.json of a downloaded file, kept in the summary.

    Raises
    ------
    UserError
        Where a file is no FASTA or is damaged, and where two records have one id (both are named).
    """
    if not fasta:
        raise UserError("source.fasta: no file is named; expected at least one FASTA file")
    with atomic_directory(catalog) as folder:
        runs = SortedRuns(folder / "runs.arrow", RUN)
        counts = Counts([Path(path) for path in fasta])
        for table in make_runs(fasta, limits, counts):
            runs.add(table)
        files = write_sorted(unique_ids(runs.merge(), counts), folder, rejects, counts)
        runs.path.unlink()
        if not counts.kept:
            names = ", ".join(map(str, fasta))
            raise UserError(
                f"{names}: no record of {counts.read:,} was kept ({counts.reasons()}); see the limits in filter"
            )
        result = counts.summary(files, read_json(release) if release else None)
    write_json(summary, result)
    log.info(
        "read %s records, kept %s; rejected %s", f"{counts.read:,}", f"{counts.kept:,}", counts.reasons() or "none"
    )
    return result


def source_identity(summary: str | os.PathLike, config_sha256: str | None = None) -> dict[str, Any]:
    """Where sequences come from, for the provenance of their embeddings.

    Parameters
    ----------
    summary : path
        The filter stage's summary.
    config_sha256 : str, optional
        Digest of the configuration that chose and split them.
    """
    account = read_json(summary)
    inputs = [{"file": each["file"], "sha256": each["sha256"]} for each in account["inputs"]]
    return {"release": account["release"], "inputs": inputs, "config_sha256": config_sha256}


class Counts:
    """The filter's account: what was read, kept, dropped, and which digests occur more than once."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.records = [0] * len(paths)
        self.kept = self.residues = self.duplicates = 0
        self.rejected: dict[str, int] = {}
        self.digest_prefixes: list[np.ndarray] = []

    def add(self, kept: pa.Table, dropped: pa.Table, duplicates: int) -> None:
        """Count rows that were written."""
        self.kept += len(kept)
        self.residues += pc.sum(kept["length"]).as_py() or 0
        self.duplicates += duplicates
        for reason in pc.value_counts(dropped["reason"].combine_chunks()).to_pylist():
            self.rejected[reason["values"]] = self.rejected.get(reason["values"], 0) + reason["counts"]

    @property
    def read(self) -> int:
        """Records read."""
        return sum(self.records)

    def reasons(self) -> str:
        """Rejected records by reason, as words."""
        return ", ".join(f"{reason}: {count:,}" for reason, count in sorted(self.rejected.items()))

    def where(self, file: int, number: int) -> str:
        """Name a record for a message."""
        return f"record {number} of {self.paths[file]}"

    def repeated_prefixes(self) -> np.ndarray:
        """Digest prefixes that occur more than once among the kept records, sorted; forgets all others."""
        prefixes = np.concatenate(self.digest_prefixes) if self.digest_prefixes else np.empty(0, np.uint64)
        self.digest_prefixes.clear()
        prefixes.sort()
        return np.unique(prefixes[1:][prefixes[1:] == prefixes[:-1]])

    def summary(self, catalog: Sequence[Path], release: dict | None) -> dict:
        """The account as JSON; fails where it does not add up."""
        dropped = sum(self.rejected.values())
        if self.read != self.kept + dropped:
            raise AssertionError(f"filter: read {self.read} != kept {self.kept} + rejected {dropped}")
        return {
            "format": 1,
            "release": release,
            "inputs": [
                {"file": path.name, "records": count, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
                for path, count in zip(self.paths, self.records, strict=True)
            ],
            "read": self.read,
            "kept": self.kept,
            "duplicates": self.duplicates,
            "residues": self.residues,
            "rejected": dict(sorted(self.rejected.items())),
            "catalog": [{"file": path.name, "sha256": file_sha256(path)} for path in catalog],
        }


def make_runs(fasta: Sequence[str | os.PathLike], limits: Limits, counts: Counts) -> Iterator[pa.Table]:
    """Read records and yield them in tables of bounded size, each sorted by id."""
    rows: list[tuple] = []
    size = 0
    base = 0
    with Progress("filter", "records") as progress:
        for file, path in enumerate(fasta):
            for entry in read_entries(path):
                record = check_entry(entry)
                fault = (record.reason, record.detail) if record.reason else limits.fault(record)
                rows.append(make_row(record, fault, base + entry.number - 1, file, entry.number))
                size += len(entry.body) + len(entry.header)
                counts.records[file] += 1
                if len(rows) == RUN_ROWS or size >= RUN_BYTES:
                    progress.update(len(rows))
                    yield sorted_run(rows, counts)
                    rows, size = [], 0
            base += counts.records[file]
        if rows:
            progress.update(len(rows))
            yield sorted_run(rows, counts)


def make_row(record: Record, fault: tuple | None, position: int, file: int, number: int) -> tuple:
    """A row of the `RUN` schema; a dropped record goes without its sequence."""
    length = len(record.sequence)
    if fault:
        unknown = (None,) * 5
        return (record.id, None, length, *unknown, record.description, position, None, None, file, number, *fault)
    header = parse_description(record.description)
    digest = refget_digest(record.sequence)
    return (
        record.id,
        digest,
        length,
        header.n_members,
        header.taxid,
        header.taxon,
        header.name,
        header.representative,
        record.description,
        position,
        record.sequence,
        # 8 of the digest's characters hold 48 of its bits: enough to find candidates, which are then compared whole.
        int.from_bytes(digest[3:11].encode(), "little"),
        file,
        number,
        None,
        None,
    )


def sorted_run(rows: list[tuple], counts: Counts) -> pa.Table:
    """Turn rows into a table sorted by id, then by position in the input."""
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, RUN, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=RUN)
    counts.digest_prefixes.append(table["digest_prefix"].drop_null().to_numpy())
    return sort_by_id(table)


def unique_ids(tables: Iterable[pa.Table], counts: Counts) -> Iterator[pa.Table]:
    """Pass tables in id order on, as long as no two records share an id."""
    last: list[pa.Table] = []
    for table in tables:
        check_unique_ids(pa.concat_tables([*last, table]), counts)
        last = [table.slice(len(table) - 1)]
        yield table


def check_unique_ids(table: pa.Table, counts: Counts) -> None:
    """Fail where neighbours in a sorted table share an id; records with no id or a bad one are no matter."""
    nameless = pc.is_in(table["reason"], value_set=pa.array(["no-id", "invalid-id"]))
    named = table.filter(pc.invert(nameless))
    ids = named["id"].combine_chunks()
    same = pc.indices_nonzero(pc.equal(ids[1:], ids[:-1])).to_pylist()
    if not same:
        return
    first, second = (counts.where(named["file"][i].as_py(), named["number"][i].as_py()) for i in (same[0], same[0] + 1))
    more = f" (and {len(same) - 1} more such pairs)" if len(same) > 1 else ""
    raise UserError(
        f"two records have the id {ids[same[0]].as_py()!r}: {first} and {second}{more}; "
        "an id must be unique, rename or remove one"
    )


def write_sorted(tables: Iterable[pa.Table], folder: Path, rejects: str | os.PathLike, counts: Counts) -> list[Path]:
    """Write the kept rows as catalog files and the dropped ones as rejects; give the catalog's files."""
    repeated = RepeatedDigests(counts.repeated_prefixes())
    catalog = FolderSink(
        folder,
        CATALOG,
        CATALOG_FILE_ROWS,
        rows=CATALOG_GROUP_ROWS,
        use_dictionary=["taxon", "name"],
        write_statistics=STATISTICS,
    )
    with (
        atomic_path(rejects) as path,
        ParquetSink(path, REJECTS, CATALOG_GROUP_ROWS, use_dictionary=["reason", "file"]) as sink,
    ):
        for table in tables:
            kept = table.filter(table["reason"].is_null())
            dropped = table.filter(table["reason"].is_valid())
            duplicate_of = repeated.canonical_ids(kept)
            counts.add(kept, dropped, len(duplicate_of) - duplicate_of.null_count)
            catalog.write(kept.append_column("duplicate_of", duplicate_of).select(CATALOG.names).cast(CATALOG))
            files = pa.array([counts.paths[file].name for file in dropped["file"].to_pylist()], pa.string())
            index = dropped.schema.get_field_index("file")
            sink.write(dropped.set_column(index, "file", files).select(REJECTS.names).cast(REJECTS))
        catalog.close()
    return catalog.files


class RepeatedDigests:
    """Finds, in rows that come in id order, the smallest id with the same sequence.

    Parameters
    ----------
    prefixes : numpy.ndarray, dtype=uint64
        Sorted digest prefixes that occur more than once; only their rows are looked at one by one.
    """

    def __init__(self, prefixes: np.ndarray) -> None:
        self.prefixes = pa.array(prefixes)
        self.canonical: dict[str, str] = {}

    def canonical_ids(self, table: pa.Table) -> pa.Array:
        """For each row the id it duplicates, or null."""
        found: list[str | None] = [None] * len(table)
        candidates = pc.indices_nonzero(pc.is_in(table["digest_prefix"], value_set=self.prefixes)).to_pylist()
        for row in candidates:
            name = table["id"][row].as_py()
            first = self.canonical.setdefault(table["digest"][row].as_py(), name)
            found[row] = first if first != name else None
        return pa.array(found, pa.string())
