"""Checking a data set against its manifest: every file's bytes, every number, and what is there besides."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256, json_text
from embedome.common.log import Progress
from embedome.common.outputs import SNAKEMAKE_MARK
from embedome.common.parallel import map_in_order
from embedome.dataset.format import (
    ALL_SKIPPED,
    CARD,
    COMMON_METADATA,
    CONFIGS,
    FORMAT,
    MANIFEST,
    METADATA,
    RESIDUES_FOLDER,
    SKIPPED_FILE,
    embedding_schema,
    find_vector_names,
    residue_schema,
)
from embedome.dataset.manifest import OTHER_FILES, read_manifest
from embedome.dataset.open import count_states
from embedome.dataset.provenance import lasting
from embedome.parquet.file_format import read_about
from embedome.parquet.reader import ParquetFile, rows_of_groups

log = logging.getLogger(__name__)

# A data set that was merged before there were data cards has neither file of it.
SIDE_FILES = (COMMON_METADATA, METADATA, SKIPPED_FILE)
CARD_FILES = (CARD, CONFIGS)
# Faults in the one line of the error; the log has all.
NAMED = 10


def verify_dataset(path: str | os.PathLike, threads: int = 1) -> dict[str, Any]:
    """Check that a data set is as it was when it was merged.

    Parameters
    ----------
    path : path
        Its folder.
    threads : int
        Files read at once.

    Returns
    -------
    dict
        Its format, and numbers of rows, files and bytes.

    Raises
    ------
    UserError
        Lists the files that are missing, changed or not of the data set, and what in the manifest is not true of them.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{path}: no folder; only data sets that the workflow merged have a manifest to check against")
    check = DatasetCheck(folder, read_manifest(folder))
    with ThreadPoolExecutor(threads) as pool, Progress("verify", "files", len(check.entries)) as progress:
        for found in map_in_order(pool, check.check_file, check.entries, 2 * threads):
            check.add(found)
            progress.update(1)
    faults = [*check.manifest_faults(), *check.faults, *check.side_faults(), *check.total_faults(), *check.strangers()]
    if faults:
        for fault in faults:
            log.error("%s: %s", path, fault)
        more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        raise UserError(f"{path}: {'; '.join(faults[:NAMED])}{more}; restore it from a copy, or merge it again")
    return check.summary()


class DatasetCheck:
    """A data set being checked, and the faults found so far."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.others = manifest.get(OTHER_FILES, [{"file": name} for name in SIDE_FILES])
        self.entries = [
            (split, kind, entry)
            for split, account in manifest["splits"].items()
            for kind in ("files", "residues")
            for entry in account[kind]
        ]
        self.faults: list[str] = []
        self.states: dict[str, Counter[str]] = {split: Counter() for split in manifest["splits"]}
        self.schema = embedding_schema(manifest["dimension"], find_vector_names(manifest["provenance"]))

    def summary(self) -> dict[str, Any]:
        """Count rows, files and bytes; warn of what a manifest of an older format does not record."""
        if self.manifest["format"] < FORMAT:
            log.warning(
                "%s: format %d has no digests of %s and the manifest; only their numbers were compared",
                self.folder, self.manifest["format"], ", ".join(SIDE_FILES),
            )  # fmt: skip
        names = [MANIFEST, *(entry["file"] for entry in self.others), *(entry["file"] for *_, entry in self.entries)]
        size = sum((self.folder / name).stat().st_size for name in names)
        return {
            "format": self.manifest["format"], "rows": self.manifest["rows"], "files": len(names), "bytes": size
        }  # fmt: skip

    def add(self, found: tuple[str, list[str], Mapping[str, int]]) -> None:
        """Add what was found of a file: its split, what is wrong with it, and its rows by state."""
        split, faults, states = found
        self.faults += faults
        self.states[split].update(states)

    def check_file(self, task: tuple[str, str, dict[str, Any]]) -> tuple[str, list[str], Mapping[str, int]]:
        """Check a file of rows; return what `add` takes."""
        split, kind, entry = task
        fault = bytes_fault(self.folder, entry)
        if fault:
            return split, [fault], {}
        try:
            file = ParquetFile(self.folder / entry["file"])
            about = read_about(file.path, file.metadata.metadata)
            states = count_states(file.read(["state"], use_threads=False)) if kind == "files" else {}
            return split, list(compare(entry["file"], self.numbers(split, kind, entry, file, about))), states
        except UserError as error:
            return split, [str(error)], {}

    def numbers(
        self, split: str, kind: str, entry: Mapping[str, Any], file: ParquetFile, about: Mapping[str, Any] | None
    ) -> Iterator[tuple[str, Any, Any]]:
        """Yield what a file has, by name, and what the manifest says of it."""
        root = Path(RESIDUES_FOLDER) if kind == "residues" else Path()
        schema = residue_schema(self.manifest["dimension"]) if kind == "residues" else self.schema
        yield "folder", str(Path(entry["file"]).parent), str(root / f"split={split}")
        yield "rows", file.metadata.num_rows, entry["rows"]
        if kind == "files" and "row_groups" in entry:
            yield "row_groups", rows_of_groups(file.metadata), entry["row_groups"]
        first, last = read_ends(file)
        yield "first_id", first, entry.get("first_id")
        yield "last_id", last, entry.get("last_id")
        yield "columns", file.schema_arrow.remove_metadata(), schema
        yield "provenance", lasting((about or {}).get("provenance", {})), lasting(self.manifest["provenance"])

    def manifest_faults(self) -> Iterator[str]:
        """Yield what is wrong with the manifest's own bytes."""
        if (self.folder / MANIFEST).read_bytes() != json_text(self.manifest).encode():
            yield f"{MANIFEST}: changed (not as it was written)"
        listed = Counter(entry["file"] for *_, entry in self.entries)
        yield from (f"{MANIFEST}: lists {name} {count} times" for name, count in listed.items() if count > 1)

    def side_faults(self) -> Iterator[str]:
        """Yield what is wrong with the files that hold no rows."""
        if [entry["file"] for entry in self.others] not in (list(SIDE_FILES), [*SIDE_FILES, *CARD_FILES]):
            yield f"{MANIFEST}: lists other files than {', '.join(SIDE_FILES)}"
        for entry in self.others:
            fault = bytes_fault(self.folder, entry)
            if fault:
                yield fault
                continue
            try:
                yield from compare(entry["file"], self.side_numbers(entry["file"]))
            except UserError as error:
                yield str(error)

    def side_numbers(self, name: str) -> Iterator[tuple[str, Any, Any]]:
        """Yield what a file that holds no rows says of the others, by name, and what it should."""
        if name in CARD_FILES:
            return
        file = ParquetFile(self.folder / name)
        if name == SKIPPED_FILE:
            yield "columns", file.schema_arrow.remove_metadata(), ALL_SKIPPED
            rows = file.read(["split", "reason"], use_threads=False).to_pylist()
            found = Counter((row["split"], row["reason"]) for row in rows)
            listed = {(split, key): n for split, each in self.splits.items() for key, n in each["skipped"].items()}
            yield "skipped sequences", found, Counter(listed)
            return
        yield "columns", file.schema_arrow.remove_metadata(), self.schema
        if name == METADATA:
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            listed_groups = [(group.column(0).file_path, group.num_rows) for group in groups]
            names = [entry["file"] for _, kind, entry in self.entries if kind == "files"]
            footers = {each: ParquetFile(self.folder / each).metadata for each in names}
            yield "row groups", listed_groups, [(each, n) for each in names for n in rows_of_groups(footers[each])]

    @property
    def splits(self) -> dict[str, Any]:
        """What the manifest says of each split."""
        return self.manifest["splits"]

    def total_faults(self) -> Iterator[str]:
        """Yield which counts of the manifest are not those of the files."""
        for split, account in self.splits.items():
            rows = sum(entry["rows"] for entry in account["files"])
            yield from compare(MANIFEST, [(f"rows of split {split} in its files", rows, account["rows"])])
            if not self.faults:
                states = [(f"rows of split {split} by state", self.states[split], Counter(account["states"]))]
                yield from compare(MANIFEST, states)
            if any(n > account["states"].get(state, 0) for state, n in account.get("reused", {}).items()):
                yield f"{MANIFEST}: more rows of split {split} are reused than there are"
        total = sum(split["rows"] for split in self.splits.values())
        yield from compare(MANIFEST, [("rows of all splits", total, self.manifest["rows"])])

    def strangers(self) -> Iterator[str]:
        """Yield files that are none of the data set's, but would be read with it; warn of other ones."""
        known = {entry["file"] for entry in self.others} | {entry["file"] for *_, entry in self.entries} | {MANIFEST}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder)
            if path.is_dir() or str(name) in known or name.name == SNAKEMAKE_MARK:
                continue
            if is_read_as_data(name):
                yield f"{name}: not in {MANIFEST}, but read with the others"
            else:
                log.warning("%s: %s is not of the data set", self.folder, name)


def bytes_fault(folder: Path, entry: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a file's bytes, if anything."""
    name, path = entry["file"], folder / entry["file"]
    if not path.is_file():
        return f"{name}: missing"
    size = path.stat().st_size
    if size != entry.get("bytes", size):
        return f"{name}: {size:,} bytes; expected {entry['bytes']:,}"
    if "sha256" in entry and file_sha256(path) != entry["sha256"]:
        return f"{name}: changed (another sha256)"
    return None


def compare(name: str, numbers: Iterable[tuple[str, Any, Any]]) -> Iterator[str]:
    """Yield what of a file is not as the manifest says."""
    for what, found, expected in numbers:
        if found != expected:
            yield f"{name}: {what} {shorten(found)}, but {shorten(expected)} in {MANIFEST}"


def shorten(value: Any) -> str:
    """Return a value in one line, cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:80]}…"


def read_ends(file: ParquetFile) -> tuple[str | None, str | None]:
    """Read the first and the last id of a file; None where it has no rows."""
    if not file.metadata.num_rows:
        return None, None
    first, last = (file.read_row_group(number, ["id"])["id"] for number in (0, file.metadata.num_row_groups - 1))
    return first[0].as_py(), last[-1].as_py()


def is_read_as_data(name: Path) -> bool:
    """Return whether readers of the folder take a file for one of rows: they pass over names that begin with _ or ."""
    hidden = any(part.startswith(("_", ".")) for part in name.parts)
    return not hidden and (name.suffix == ".parquet" or name.parts[0].startswith("split="))
