"""Files and folders that exist whole or not at all."""

import errno
import fcntl
import os
import secrets
import shutil
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from embedome.common.errors import FULL
from embedome.common.outputs import check_new_folder, check_regular


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; publish it as `path` when the block ends.

    The file is flushed to disk before it is renamed, so that a reader sees the old file or the new one, whole,
    whatever is killed and when. The temporary name is new each time: two processes that write one file do not
    meet. Temporaries that a killed process left are removed with the next publication.

    Raises
    ------
    UserError
        Where at `path` is something else than a regular file: a folder, a link, a pipe, a device.
    OSError
        As the file system raises it; of a full disk with the path's name. The temporary file is removed.
    """
    path = Path(path)
    check_regular(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with name_full_disk(path):
            yield temporary
            publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def name_full_disk(path: Path) -> Iterator[None]:
    """Have a full disk's error name the path, where it names no file: Arrow's do not, nor do those of a write."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or error.filename:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def publish(temporary: Path, path: Path) -> None:
    """Rename a finished temporary file to `path` and sweep away what killed writers of `path` left."""
    try:
        sync(temporary)
        check_regular(path)
        os.replace(temporary, path)
    except FileNotFoundError:
        # Another process published the same file meanwhile and swept ours away; what it wrote is as good.
        if not path.exists():
            raise
    sync(path.parent)
    for stale in temporaries_beside(path):
        stale.unlink(missing_ok=True)


@contextmanager
def atomic_directory(
    path: str | os.PathLike, check: Callable[[str | os.PathLike], None] = check_new_folder
) -> Iterator[Path]:
    """Yield a temporary folder beside `path` to fill; put it in the place of `path` when the block ends.

    What stood at `path` stays until the new folder is whole. Folders that killed processes left are removed.

    Parameters
    ----------
    path : path
    check : callable
        Fails where what is at `path` may not be replaced; without it only an empty folder may.
    """
    path = Path(path)
    check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    temporary.mkdir()
    # Open, so that no other folder gets its inode.
    own = os.open(temporary, os.O_RDONLY)
    try:
        with name_full_disk(path):
            yield temporary
            for entry in [*temporary.rglob("*"), temporary]:
                sync(entry)
        if not os.path.samestat(os.fstat(own), os.stat(temporary)):
            # Swept away by another process, and created again by `atomic_path` for what came later.
            raise FileNotFoundError(errno.ENOENT, "removed meanwhile", str(temporary))
        with hold_folder(path.parent):
            check(path)
            replace_directory(temporary, path)
        sync(path.parent)
    finally:
        os.close(own)
        remove_directory(temporary, path)
    for stale in temporaries_beside(path):
        remove_directory(stale, path)


@contextmanager
def scratch_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a folder beside `path` for what is needed only while `path` is made; removed when the block ends.

    Folders that killed processes left are removed when the block ends well.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    base = path.with_name(f"{path.name}.scratch")
    folder = temporary_beside(base)
    folder.mkdir()
    try:
        with name_full_disk(path):
            yield folder
    finally:
        remove_directory(folder, base)
    for stale in temporaries_beside(base):
        remove_directory(stale, base)


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold a folder against others that would hold it, as far as the file system knows locks.

    The folder itself is locked, so that no lock file is left in it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_directory(temporary: Path, path: Path) -> None:
    """Rename a folder to `path`, out of which any folder is moved first."""
    while True:
        old = temporary_beside(path)
        with suppress(FileNotFoundError):
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except FileNotFoundError:
            # Swept away by another process, whose folder it may be that was moved: back with it.
            with suppress(OSError):
                os.replace(old, path)
            raise
        except OSError as error:
            # Another process may have put its folder there in between.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return


def remove_directory(temporary: Path, path: Path) -> None:
    """Remove a temporary folder of `path`; a process that still fills it fails, and does not go on with half of it."""
    doomed = temporary_beside(path)
    with hold_folder(path.parent), suppress(OSError):
        os.replace(temporary, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def temporary_beside(path: Path) -> Path:
    """Return a new temporary name in the folder of `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def temporaries_beside(path: Path) -> list[Path]:
    """List files and folders that have a temporary name beside `path`."""
    start, end, length = f".{path.name}.", ".tmp", len(path.name) + 18
    # By plain comparisons: a folder of a thousand shards is looked through a thousand times.
    names = (name for name in os.listdir(path.parent) if name.startswith(start) and name.endswith(end))
    return [path.with_name(name) for name in names if len(name) == length and is_temporary(name)]


def find_temporaries(folder: Path, pattern: str) -> list[Path]:
    """List files and folders that have a temporary name for a path in `folder` whose name matches a glob pattern."""
    return [path for path in folder.glob(f".{pattern}.????????????.tmp") if is_temporary(path.name)]


def is_temporary(name: str) -> bool:
    """Return whether a name ends as `temporary_beside` has it, and not as somebody else's may."""
    return all(letter in string.hexdigits.lower() for letter in name[-16:-4])


def sync(path: Path) -> None:
    """Flush a file, or a directory's entries, to disk, so that a rename survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
