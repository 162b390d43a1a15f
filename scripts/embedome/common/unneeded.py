"""Files and folders that nothing needs any more: what they are, what they take, and their removal."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embedome.common.atomic_files import remove_directory
from embedome.common.locks import try_lock


@dataclass(frozen=True, slots=True)
class Unneeded:
    """A file or folder that may go.

    Parameters
    ----------
    path : Path
    reason : str
    lock : Path or None
        Held by whoever works there; None: it is nobody's.
    """

    path: Path
    reason: str
    lock: Path | None = None

    @property
    def bytes(self) -> int:
        """What its removal frees: of a file that has another name, as parts in a data set have, nothing."""
        found = (path.lstat() for path in files_below(self.path))
        return sum(each.st_size for each in found if each.st_nlink == 1)

    @property
    def is_held(self) -> bool:
        """Whether another process works there."""
        if self.lock is None or not self.lock.exists():
            return False
        with try_lock(self.lock) as is_free:
            return not is_free

    def remove(self) -> bool:
        """Remove it, whole; return whether that was done, as nobody works there."""
        if self.lock is None:
            self.take_away()
            return True
        with try_lock(self.lock) as is_free:
            if is_free:
                self.take_away()
        return is_free

    def take_away(self) -> None:
        """Remove it, whoever works there."""
        if self.path.is_dir():
            remove_directory(self.path, self.path)
        else:
            self.path.unlink(missing_ok=True)


def files_below(path: Path) -> Iterator[Path]:
    """Yield a file, or all files in a folder; links are not followed."""
    if not path.is_dir():
        yield path
    for root, _, names in os.walk(path):
        yield from (Path(root, name) for name in names)
