"""Files that a user names to be read: regular ones, as they are read more than once; of what may fit the memory."""

import os
import tarfile
from pathlib import Path
from typing import Self

from embedome.common.errors import UserError

STANDARD_INPUT = "-"
# Of a line, and of what a tar archive says of a member before its bytes: both are read into memory.
MOST_LINE_BYTES, MOST_ATTRIBUTE_BYTES = 64 << 20, 1 << 20


def check_input(path: str | os.PathLike, expected: str) -> None:
    """Refuse what is no regular file, and say how to give it all the same.

    Parameters
    ----------
    path : path
    expected : str
        What the file is, as in "a FASTA file".

    Raises
    ------
    UserError
        Where it is missing, standard input, a folder, a pipe or a device.
    """
    path = Path(path)
    if path.is_file():
        return
    if str(path) == STANDARD_INPUT:
        raise UserError("-: standard input cannot be read here; write it to a file, and name that")
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected {expected}")
    if path.exists():
        raise UserError(f"{path} is no regular file; expected {expected}: write what it yields to one")
    raise UserError(f"{path}: no such file; check the path")


def check_line(path: object, size: int) -> None:
    """Refuse a file with a line of very many bytes: a few compressed ones may stand for gigabytes."""
    if size > MOST_LINE_BYTES:
        raise UserError(f"{path}: a line is longer than {MOST_LINE_BYTES >> 20} MiB; is this a text file?")


class BoundedHeader(tarfile.TarInfo):
    """A header of a tar archive; long names and other attributes, which are read before the member, are bounded."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As `tarfile.TarInfo.frombuf`."""
        found = super().frombuf(buf, encoding, errors)
        if not found.isfile() and found.size > MOST_ATTRIBUTE_BYTES:
            raise tarfile.ReadError(f"a header of {found.size:,} bytes")
        return found
