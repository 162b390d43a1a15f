"""Checking a data set against its manifest: every file, its bytes, its rows, and that nothing is there besides."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256
from embedome.common.log import Progress
from embedome.common.parallel import map_in_order
from embedome.dataset.dataset import Dataset
from embedome.dataset.format import COMMON_METADATA, MANIFEST, METADATA, SKIPPED_FILE
from embedome.dataset.open import open_dataset
from embedome.parquet.reader import ParquetFile


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
        Numbers of rows, files and bytes.

    Raises
    ------
    UserError
        Lists the files that are missing, changed or not of the data set, or says which count does not add up.
    """
    if not Path(path).is_dir():
        raise UserError(f"{path}: no folder; only data sets that the workflow merged have a manifest to check against")
    data = open_dataset(path)
    entries = [*data.files(), *data.files(kind="residues")]
    with ThreadPoolExecutor(threads) as pool, Progress("verify", "files", len(entries)) as progress:
        faults = []
        for fault in map_in_order(pool, partial(file_fault, data.folder), entries, 2 * threads):
            faults += [fault] if fault else []
            progress.update(1)
    faults += [f"{name}: not in {MANIFEST}" for name in strangers(data, entries)]
    if faults:
        more = f"; and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise UserError(f"{path}: {'; '.join(faults[:10])}{more}; merge the data set again")
    check_totals(data)
    size = sum(entry["bytes"] for entry in entries)
    return {"rows": len(data), "files": len(entries), "bytes": size}


def file_fault(folder: Path, entry: dict[str, Any]) -> str | None:
    """What is wrong with a file, if anything."""
    path = folder / entry["file"]
    if not path.is_file():
        return f"{entry['file']}: missing"
    if path.stat().st_size != entry["bytes"]:
        return f"{entry['file']}: {path.stat().st_size:,} bytes; expected {entry['bytes']:,}"
    if file_sha256(path) != entry["sha256"]:
        return f"{entry['file']}: changed (another sha256)"
    return None


def strangers(data: Dataset, entries: list[dict[str, Any]]) -> Iterator[str]:
    """Files of the folder that are none of the data set's."""
    known = {entry["file"] for entry in entries} | {MANIFEST, SKIPPED_FILE, METADATA, COMMON_METADATA}
    for path in sorted(data.folder.rglob("*")):
        name = str(path.relative_to(data.folder))
        if path.is_file() and name not in known and path.name != ".snakemake_timestamp":
            yield name


def check_totals(data: Dataset) -> None:
    """Check that the manifest's counts add up, and that the common metadata and the list of the skipped agree.

    Raises
    ------
    UserError
        Says what does not.
    """
    splits = data.manifest["splits"].values()
    counts = {
        "rows of all files": sum(file["rows"] for file in data.files()),
        "rows of all splits": sum(split["rows"] for split in splits),
        "rows by state": sum(sum(split["states"].values()) for split in splits),
        f"rows in {METADATA}": ParquetFile(data.folder / METADATA).metadata.num_rows,
    }
    for what, count in counts.items():
        check_count(data, what, count, len(data))
    listed = ParquetFile(data.folder / SKIPPED_FILE).metadata.num_rows
    check_count(data, f"rows in {SKIPPED_FILE}", listed, sum(sum(split["skipped"].values()) for split in splits))


def check_count(data: Dataset, what: str, found: int, expected: int) -> None:
    """Compare one count with the manifest's."""
    if found != expected:
        raise UserError(f"{data.folder}: {found:,} {what}, but {expected:,} in {MANIFEST}; merge the data set again")
