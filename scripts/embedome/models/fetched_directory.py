"""Model directories that were fetched from the Hub: what they say they are, and whether they may be replaced."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256, read_json
from embedome.common.outputs import check_own_folder

# In a fetched directory: what it is, and the digest of each file.
MARK = "hub.json"
# What to do where something else is in the way.
ANOTHER = "name a directory that is not there (in a configuration, model.hub: null uses what is there)"


def read_mark(directory: Path) -> dict[str, Any] | None:
    """Return what a fetched directory says it is; None where it was not fetched."""
    path = directory / MARK
    about = read_json(path) if path.is_file() else None
    return about if isinstance(about, dict) and {"id", "revision", "sha256"} <= about.keys() else None


def is_fetched(directory: Path, identity: Mapping[str, str]) -> bool:
    """Return whether a directory holds all files of a model, known by its id and commit."""
    about = read_mark(directory)
    return (
        about is not None
        and {key: about[key] for key in ("id", "revision")} == identity
        and all((directory / name).is_file() for name in about["sha256"])
    )


def check_own_fetch(directory: str | os.PathLike) -> None:
    """Check that a directory is empty or not there, or holds a model that was fetched and no other file.

    Raises
    ------
    UserError
        Where something else is in it.
    """
    directory = Path(directory)
    about = read_mark(directory) or {"sha256": {}}
    names = re.compile("|".join(map(re.escape, [MARK, *about["sha256"]])))
    check_own_folder(directory, names, lambda folder: read_mark(folder) is not None, ANOTHER)


def check_unchanged(directory: str | os.PathLike) -> None:
    """Check that a directory may be replaced by a fetched model: as `check_own_fetch`, by the digests of all files too.

    Raises
    ------
    UserError
        Where a file was changed since it was fetched.
    """
    directory = Path(directory)
    check_own_fetch(directory)
    for name, digest in (read_mark(directory) or {"sha256": {}})["sha256"].items():
        if (directory / name).is_file() and file_sha256(directory / name) != digest:
            raise UserError(f"{directory / name}: changed since it was fetched; {ANOTHER}")
