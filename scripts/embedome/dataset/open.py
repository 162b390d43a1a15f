"""Opening a data set: the folder that the workflow wrote, or the one file of `embedome embed`."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from embedome.dataset.dataset import Dataset
from embedome.dataset.format import SKIPPED_FILE
from embedome.dataset.manifest import read_manifest
from embedome.dataset.part_file import has_residues, part_info, read_rows, residues_path


def open_dataset(path: str | os.PathLike) -> Dataset:
    """Open a data set: the folder that the workflow wrote, or the one file of `embedome embed`.

    Raises
    ------
    UserError
        Where there is none, or the folder has no manifest and so is not whole, or one that was changed or is of a
        format that this version does not know.
    """
    path = Path(path)
    if path.is_file():
        return open_file(path)
    manifest = read_manifest(path)
    skipped = read_rows(path / SKIPPED_FILE)
    return Dataset(path, manifest, skipped=skipped if len(skipped) else None)


def open_file(path: Path) -> Dataset:
    """Open the one file of `embedome embed` as a data set of one split, ``all``; vectors are not read."""
    info = part_info(path)
    table = read_rows(path, ["id", "state"])
    ids = table["id"]
    entry = {
        "file": path.name,
        "rows": info.rows,
        "first_id": ids[0].as_py() if info.rows else None,
        "last_id": ids[-1].as_py() if info.rows else None,
        "bytes": path.stat().st_size,
    }
    residues = [{**entry, "file": residues_path(path).name}] if has_residues(path, info) else []
    splits = {"all": {"rows": info.rows, "states": count_states(table), "files": [entry], "residues": residues}}
    manifest = {"rows": info.rows, "dimension": info.dimension, "splits": splits, "provenance": info.provenance}
    skipped = pa.Table.from_pylist(info.skipped) if info.skipped else None
    return Dataset(path.parent, manifest, skipped=skipped, file=path)


def count_states(table: pa.Table) -> dict[str, int]:
    """Return the number of rows by state."""
    counts = pc.value_counts(table["state"].combine_chunks()).to_pylist()
    return {count["values"]: count["counts"] for count in sorted(counts, key=lambda count: count["values"])}
