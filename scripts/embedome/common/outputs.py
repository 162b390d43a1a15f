"""What may be written over: nothing that exists, unless embedome made it."""

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from embedome.common.errors import UserError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# By which a folder is known as a data set, and the file that Snakemake puts into folders that a rule writes.
DATASET_MARK, SNAKEMAKE_MARK = "_manifest.json", ".snakemake_timestamp"


def find_kind(path: str | os.PathLike) -> str | None:
    """Return what is at a path, links not followed: a word of `KINDS`, empty for a regular file; None for nothing."""
    try:
        return KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "")
    except (FileNotFoundError, NotADirectoryError):
        return None


def check_regular(path: str | os.PathLike) -> None:
    """Refuse to write a file where something else is: it would be replaced, and a link is not followed.

    Raises
    ------
    UserError
        Also where a part of the path is no folder.
    """
    if kind := find_kind(path):
        raise UserError(f"{path} is {kind}; expected the name of a file to write")
    for parent in Path(path).parents:
        if parent.is_dir():
            return
        if find_kind(parent) is not None:
            raise UserError(f"{path}: {parent} is no folder; expected the name of a file to write")


def check_output(
    out: str | os.PathLike,
    inputs: Sequence[str | os.PathLike] = (),
    is_own: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Refuse to write a file over one that is read, that embedome did not make, or into a data set.

    Parameters
    ----------
    out : path
    inputs : sequence of paths
        Files that are read.
    is_own : callable
        Whether a file is of this kind and embedome made it: such a file is replaced. Without it none is.

    Raises
    ------
    UserError
        Also as `check_regular`.
    """
    out = Path(out)
    check_regular(out)
    check_outside(out)
    if not out.exists():
        return
    if any(Path(path).exists() and os.path.samefile(out, path) for path in inputs):
        raise UserError(f"{out}: is a file that is to be read; name another one to write")
    try:
        replaced = not out.stat().st_size or is_own(out)
    except UserError:
        replaced = False
    if not replaced:
        raise UserError(f"{out}: is there already, and embedome did not make it; name another file, or remove it")


def check_outside(out: str | os.PathLike) -> None:
    """Refuse what would lie in the folder of a data set, whose readers would take it for a part of it."""
    for parent in Path(os.path.realpath(out)).parents:
        if (parent / DATASET_MARK).is_file() and b'"provenance"' in (parent / DATASET_MARK).read_bytes():
            raise UserError(f"{out}: lies in the data set {parent}; name a place outside of it")


def check_new_folder(path: str | os.PathLike) -> None:
    """Refuse a folder that holds something, or would lie in a data set, before it is replaced whole."""
    check_outside(path)
    if find_kind(path) is not None and not is_empty_folder(path):
        raise UserError(f"{path}: is there already; name a folder that is not there")


def is_empty_folder(path: str | os.PathLike) -> bool:
    """Return whether a folder, and no link to one, holds nothing; one that another process has just removed, too."""
    try:
        return find_kind(path) == "a folder" and not os.listdir(path)
    except FileNotFoundError:
        return True


def check_own_folder(
    path: str | os.PathLike,
    names: re.Pattern[str],
    is_own: Callable[[Path], bool],
    advice: str = "name a folder that is not there, or move it",
) -> None:
    """Refuse a folder that embedome did not make, or that holds something else too, before it is replaced whole.

    Parameters
    ----------
    path : path
    names : re.Pattern
        Of the files that embedome writes there: their paths below the folder.
    is_own : callable
        Whether a folder of such files bears the mark that embedome made it.
    advice : str
        What to do.

    Raises
    ------
    UserError
        Names the folder and what is in it.
    """
    path, kind = Path(path), find_kind(path)
    if kind is None or is_empty_folder(path):
        return
    if kind != "a folder":
        raise UserError(f"{path} is {kind or 'a file'}; expected the name of a folder to write")
    if other := next(others_in(path, names), None):
        raise UserError(f"{path}: holds {other!r}, which embedome did not make; {advice}")
    if not is_own(path):
        raise UserError(f"{path}: is there already, and embedome did not make it; {advice}")


def others_in(folder: Path, names: re.Pattern[str]) -> Iterator[str]:
    """Yield paths below a folder that are no regular files of the names; of empty folders the name ends in a slash."""
    for root, folders, files in os.walk(folder):
        here = Path(root)
        if not folders and not files:
            files = [""]
        for name in sorted([*files, *(name for name in folders if (here / name).is_symlink())]):
            below = f"{(here / name).relative_to(folder).as_posix()}{'' if name else '/'}"
            kind = find_kind(here / name) if name else ""
            # What has gone meanwhile was another process's.
            if kind is not None and name != SNAKEMAKE_MARK and (kind or not names.fullmatch(below)):
                yield below
