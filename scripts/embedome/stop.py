"""Ending on SIGTERM, which batch systems send some seconds before they kill a job."""

import multiprocessing
import signal
import sys
from types import FrameType

# As a shell tells of a process that the signal ended; Snakemake takes it for a failure and tries again.
TERMINATED_EXIT = 128 + signal.SIGTERM


def exit_on_sigterm() -> None:
    """From now on end this process and its workers on SIGTERM, as an exception does.

    The part under way is given up, its temporary files are removed, and what is being written is finished. It takes
    as long as the operation under way on the device, a fraction of a second.
    """
    signal.signal(signal.SIGTERM, stop)


def stop(number: int, frame: FrameType | None) -> None:
    """Handle the signal."""
    for child in multiprocessing.active_children():
        child.terminate()
    sys.exit(TERMINATED_EXIT)
