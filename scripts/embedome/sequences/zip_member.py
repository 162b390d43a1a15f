"""The one file of a zip archive, as UniProt's and other sites send a download."""

import io
import zipfile
from typing import IO

from embedome.common.errors import UserError, cut

# What macOS adds to archives.
ADDED_FOLDER, ADDED_FILE = "__MACOSX/", ".DS_Store"
LISTED = 3


def open_member(file: io.RawIOBase | IO[bytes]) -> IO[bytes]:
    """Open the one file of an archive.

    Raises
    ------
    UserError
        Where it holds several, or none, or is locked by a password.
    zipfile.BadZipFile
        Where it is damaged.
    """
    assert isinstance(file, io.BufferedReader), "a file that is open"
    archive = zipfile.ZipFile(file)
    members = [each for each in archive.infolist() if not each.is_dir() and not is_added(each.filename)]
    if len(members) != 1:
        named = ", ".join(cut(each.filename) for each in members[:LISTED])
        raise UserError(
            f"{file.name}: a zip archive of {len(members):,} files ({named or 'none'}); expected one: unpack it, and "
            "name the FASTA files"
        )
    try:
        return archive.open(members[0])
    except (NotImplementedError, RuntimeError) as error:
        raise UserError(f"{file.name}: {error}; unpack it, and name the FASTA file") from None


def is_added(name: str) -> bool:
    """Return whether a file of an archive is not the user's."""
    return name.startswith(ADDED_FOLDER) or name.rpartition("/")[2] == ADDED_FILE
