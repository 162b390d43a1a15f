"""Ending on SIGTERM, which batch systems send some seconds before they kill a job."""

import multiprocessing
import signal
import sys
from types import FrameType

# As a shell tells of a process that the signal ended; Snakemake takes it for a failure and tries again.
TERMINATED_EXIT = 128 + signal.SIGTERM


def exit_on_sigterm() -> None:
    """From now on end this process on SIGTERM, as an exception does, and its workers at once.

    Here the part on the device is given up, the one that is being written is finished, and temporary files are removed;
    those of workers are swept away by the next run. It takes as long as the operation under way on the device, a
    fraction of a second, and the reading and writing under way: with vectors of residues some seconds.
    """
    signal.signal(signal.SIGTERM, stop)


def stop(number: int, frame: FrameType | None) -> None:
    """Handle the signal."""
    for child in multiprocessing.active_children():
        child.terminate()
    sys.exit(TERMINATED_EXIT)
