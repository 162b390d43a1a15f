"""Work done within parts, counted over the threads and worker processes of a run."""

import multiprocessing
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized


class Current:
    """The count of this process, if it counts."""

    count: "ClassVar[Synchronized[int] | None]" = None


def begin_count() -> "Synchronized[int]":
    """Begin to count in this process, from 0; workers are handed the count when they begin."""
    count: Synchronized[int] = multiprocessing.get_context("forkserver").Value("q", 0)
    Current.count = count
    return count


def count_work(amount: int) -> None:
    """Add to the count, where there is one."""
    if Current.count is not None:
        with Current.count.get_lock():
            Current.count.value += amount


class PartWork:
    """Counts a part as its batches are run.

    Parameters
    ----------
    total : int
        Residues of its sequences.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def reach(self, fraction: float) -> None:
        """Count up to a fraction of the part."""
        done = round(self.total * fraction)
        count_work(done - self.done)
        self.done = done
