"""Files that a user names to be read: they are read more than once, which standard input and pipes do not allow."""

import os
from pathlib import Path

from embedome.common.errors import UserError

STANDARD_INPUT = "-"


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
