"""The manifest of a data set: written with a digest of itself, and read only where it is as it was written."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256, json_sha256, read_json, write_json
from embedome.dataset.format import FORMAT, MANIFEST, READ_FORMATS

# Keys that came with format 3: the digest of the manifest without it, and the files that hold no rows.
DIGEST, OTHER_FILES = "sha256", "other_files"
# What readers of all formats need, in the manifest, of each split, and of each file.
NEEDED = {"dimension": int, "rows": int, "splits": dict, "provenance": dict}
NEEDED_OF_SPLIT = {"rows": int, "states": dict, "skipped": dict, "files": list, "residues": list}
NEEDED_OF_FILE = {"file": str, "rows": int}


def describe_bytes(folder: Path, name: str) -> dict[str, Any]:
    """Make the entry of a file that holds no rows."""
    return {"file": name, "bytes": (folder / name).stat().st_size, "sha256": file_sha256(folder / name)}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write a manifest with its format and digest; also returned."""
    whole = {"format": FORMAT, **{key: value for key, value in manifest.items() if key != DIGEST}}
    whole[DIGEST] = json_sha256(whole)
    write_json(folder / MANIFEST, whole)
    return whole


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """Read a manifest.

    Raises
    ------
    UserError
        Where there is none, where it is of a format that this version does not know, and where it was changed.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: no data set there (no {MANIFEST}); run the merge stage, or check the path")
    changed = UserError(f"{path}: changed since it was written; restore it from a copy, or merge the data set again")
    try:
        manifest = read_json(path)
    except UserError:
        raise changed from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if type(version) is not int or version not in READ_FORMATS:
        known = " and ".join(map(str, READ_FORMATS))
        raise UserError(f"{path}: format {version!r}; this version reads {known}. Take the version that wrote it")
    if not (is_whole(manifest) and has_what_is_needed(manifest)):
        raise changed
    return manifest


def is_whole(manifest: Mapping[str, Any]) -> bool:
    """Return whether a manifest has the digest that it records; one of format 2 records none."""
    if manifest["format"] < FORMAT:
        return DIGEST not in manifest
    try:
        return manifest.get(DIGEST) == json_sha256({key: manifest[key] for key in manifest if key != DIGEST})
    except ValueError:  # of what JSON cannot hold, as NaN
        return False


def has_what_is_needed(manifest: Mapping[str, Any]) -> bool:
    """Return whether a manifest has all that readers need."""
    if not has_keys(manifest, NEEDED) or not isinstance(manifest["provenance"].get("pooling"), list):
        return False
    splits = manifest["splits"].values()
    if not all(has_keys(split, NEEDED_OF_SPLIT) for split in splits):
        return False
    entries = [entry for split in splits for kind in ("files", "residues") for entry in split[kind]]
    return all(has_keys(entry, NEEDED_OF_FILE) and is_inside(entry["file"]) for entry in entries)


def has_keys(value: Any, kinds: Mapping[str, type]) -> bool:
    """Return whether a value is a JSON object whose keys have values of some kinds."""
    return isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in kinds.items())


def is_inside(name: str) -> bool:
    """Return whether a relative path stays in its folder."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts
