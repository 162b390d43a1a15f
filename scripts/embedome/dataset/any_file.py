"""Describing and verifying whatever embedome writes vectors to: a data set's folder, or one file."""

import os
from pathlib import Path
from typing import Any

from embedome.common.errors import UserError
from embedome.dataset.exported_file import EXPORTED, describe_exported, verify_exported
from embedome.dataset.open import open_dataset
from embedome.dataset.verify import verify_dataset
from embedome.dataset.verify_file import verify_file

# Exported too, but in a form that is not read back.
NOT_READ = (".csv", ".tsv", ".h5ad")


def describe_any(path: str | os.PathLike) -> dict[str, Any]:
    """Return what a data set or a file says of itself, as `Dataset.describe` does.

    Raises
    ------
    UserError
        Where it is damaged, or nothing that embedome wrote.
    """
    path = check_kind(Path(path))
    if is_exported(path):
        return describe_exported(path)
    return open_dataset(path).describe()


def verify_any(path: str | os.PathLike, threads: int = 1) -> dict[str, Any]:
    """Check a data set or a file; return what `verify.verify_dataset` does.

    Raises
    ------
    UserError
        Says what is wrong with it.
    """
    path = check_kind(Path(path))
    if is_exported(path):
        return verify_exported(path)
    return verify_file(path) if path.is_file() else verify_dataset(path, threads)


def is_exported(path: Path) -> bool:
    """Return whether a file's name ends as those of exported arrays do."""
    return path.is_file() and path.suffix.lower() in EXPORTED


def check_kind(path: Path) -> Path:
    """Refuse a path where nothing is, or a file of a kind that is not read back; return any other."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file() and path.suffix.lower() in NOT_READ:
        raise UserError(f"{path}: files in {path.suffix} are not read back; name the Parquet file it was made from")
    return path
