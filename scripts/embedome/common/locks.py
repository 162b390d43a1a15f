"""A lock file that one process holds at a time; the lock ends with its holder, even if it is killed."""

import errno
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

# Between two looks at a lock that another process holds.
WAIT_S = 1.0
# What a file system answers that knows no locks.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Make a lock file and hold it until the block ends; yield whether it is held, or another process's.

    The holder may remove it, or move its folder away. Where the file system knows no locks, nobody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # No soft locks in their place: those outlive a holder that is killed.
    lock = FileLock(path, blocking=False, fallback_to_soft=False)
    is_held = True
    try:
        lock.acquire()
    except (Timeout, FileNotFoundError):
        # Another process's, or its holder has just moved the folder away.
        is_held = False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    try:
        yield is_held
    finally:
        lock.release()


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Make a lock file and hold it until the block ends, after whoever holds it; else as `try_lock`."""
    is_told = False
    while True:
        with try_lock(path) as is_held:
            if is_held:
                yield
                return
        if not is_told:
            log.info("%s: waiting for another process", path.parent)
            is_told = True
        time.sleep(WAIT_S)
