"""Sequence files as a user names them: files, folders of files, standard input and pipes."""

import logging
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO

from embedome.common.errors import UserError
from embedome.common.inputs import STANDARD_INPUT

log = logging.getLogger(__name__)

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


def check_streams(paths: Iterable[str | os.PathLike]) -> None:
    """Refuse a stream that is named twice, by whatever names: it can be read once.

    Raises
    ------
    UserError
        Also where standard input is named, and is closed.
    """
    seen: dict[tuple[int, int], str | os.PathLike] = {}
    for path in filter(is_stream, paths):
        if os.fspath(path) == STANDARD_INPUT and sys.stdin is None:
            raise UserError("-: standard input is closed; name a file")
        found = os.stat(0 if os.fspath(path) == STANDARD_INPUT else path)
        place = (found.st_dev, found.st_ino)
        if place in seen:
            raise UserError(f"{seen[place]} and {path} are one stream; it can be read once")
        seen[place] = path


@contextmanager
def keep_streams(paths: Sequence[str | os.PathLike], folder: Path) -> Iterator[list[str | os.PathLike]]:
    """Copy standard input and pipes into files of a folder; yield the paths with these in their places.

    Raises
    ------
    UserError
        Of the block, with the names that the user gave.
    """
    kept: list[str | os.PathLike] = []
    for number, path in enumerate(paths):
        copy = folder / f"stream-{number}"
        kept.append(copy if is_stream(path) else path)
        if kept[-1] is copy:
            log.info("%s: copied to %s, as it is read more than once", path, copy)
            with open(copy, "wb") as file, open_stream(path) as stream:
                shutil.copyfileobj(stream, file)
    try:
        yield kept
    except UserError as error:
        message = str(error)
        for used, path in zip(kept, paths, strict=True):
            message = message.replace(os.fspath(used), os.fspath(path))
        raise UserError(message) from None


def open_stream(path: str | os.PathLike) -> AbstractContextManager[IO[bytes]]:
    """Open a pipe, or standard input, which stays open."""
    return nullcontext(sys.stdin.buffer) if os.fspath(path) == STANDARD_INPUT else open(path, "rb")
