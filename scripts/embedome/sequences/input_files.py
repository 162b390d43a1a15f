"""Sequence files as a user names them: files, folders of files, standard input and pipes."""

import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from embedome.common.errors import UserError

STANDARD_INPUT = "-"
# What streams are called where they are kept.
STREAM_NAME = r"stream-\d+"
SEQUENCE_FILE = re.compile(r"[^.].*\.(fa|faa|fas|fasta|fsa|pep|seq|xml)(\.(gz|bgz|zst|bz2|xz|zip))?", re.IGNORECASE)


def list_files(paths: Iterable[str | os.PathLike]) -> list[str | os.PathLike]:
    """Return the files, and for each folder the sequence files in it, by name, not those in folders of its own.

    Raises
    ------
    UserError
        Where a folder holds none.
    """
    files: list[str | os.PathLike] = []
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        inside = [Path(path, name) for name in sorted(os.listdir(path)) if SEQUENCE_FILE.fullmatch(name)]
        if not inside:
            raise UserError(f"{path}: a folder without sequence files; expected names that end in .fasta, .fa or .faa")
        files += [str(each) for each in inside if each.is_file()]
    return files


def is_stream(path: str | os.PathLike) -> bool:
    """Return whether a path is standard input or a pipe, which can be read once."""
    if os.fspath(path) == STANDARD_INPUT:
        return True
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def keep_streams(paths: Sequence[str | os.PathLike], folder: Path) -> list[str | os.PathLike]:
    """Copy standard input and pipes into files of a folder; return the paths with these in their places."""
    kept: list[str | os.PathLike] = []
    for number, path in enumerate(paths):
        if is_stream(path):
            copy = folder / f"stream-{number}"
            with open(copy, "wb") as file:
                if os.fspath(path) == STANDARD_INPUT:
                    shutil.copyfileobj(sys.stdin.buffer, file)
                else:
                    with open(path, "rb") as stream:
                        shutil.copyfileobj(stream, file)
            path = copy
        kept.append(path)
    return kept
