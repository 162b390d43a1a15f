"""Locks that one process holds at a time; a lock ends with its holder, even if it is killed."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Make a file, and hold it until the block ends; give whether it is held, or another process's.

    The holder may remove it, or move its folder away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = open(path, "ab")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        # Its holder has just moved the folder away.
        yield False
        return
    with handle:
        yield lock_file(handle, path)


def lock_file(handle: BinaryIO, path: Path) -> bool:
    """Hold an open file against other processes, as far as the file system knows locks; whether it is held."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle.fileno()), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return True


@contextmanager
def wait_for_lock(folder: Path) -> Iterator[None]:
    """Hold a folder against others that would hold it, as far as the file system knows locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
