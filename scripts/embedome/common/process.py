"""The running process: ending on SIGTERM and Ctrl-C, keeping freed memory, peak memory."""

import ctypes
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from embedome.common.errors import INTERRUPTED, INTERRUPTED_EXIT

# Options of glibc's mallopt, see malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

# As a shell reports a process that the signal ended; Snakemake takes it for a failure and tries again.
TERMINATED_EXIT = 128 + signal.SIGTERM
# After Ctrl-C: for what is being written to be given up in order.
LONGEST_STOP_S = 1.5


def keep_freed_memory() -> None:
    """Have the C library reuse the memory of freed arrays and tensors, as torch's own allocator does on a GPU.

    Blocks above 32 MB would go back to the kernel, which then clears each page of the next ones: 150,000 pages in a
    batch of ESM-1nv, a twentieth of its time, and of the filter's as much. With another C library than glibc all stays
    as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def exit_on_sigterm() -> None:
    """End this process on SIGTERM from now on, as an exception does, and its workers at once.

    Here the part on the device is given up, what is being written is finished, and temporary files are removed;
    those of workers are swept away by the next run. It takes as long as the operation under way on the device, a
    fraction of a second, and the reading and writing under way: with per-residue embeddings up to half a minute.
    """
    signal.signal(signal.SIGTERM, stop)


def stop(number: int, frame: FrameType | None) -> None:
    """Handle the signal."""
    for child in multiprocessing.active_children():
        child.terminate()
    sys.exit(TERMINATED_EXIT)


def exit_on_interrupt() -> None:
    """End this process on Ctrl-C from now on: as on an exception, and if that takes long, at once.

    Python's own handler waits for what the main thread does, a model's pass, and leaving a pool waits for its work.
    What is not removed then is swept away by the next run, as after kill -9.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Written to by the signal itself, whatever the main thread does.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        while signal.SIGINT not in os.read(reading, 1):
            pass
        time.sleep(LONGEST_STOP_S)
        for child in multiprocessing.active_children():
            child.terminate()
        logging.getLogger(__name__).error(INTERRUPTED)
        os._exit(INTERRUPTED_EXIT)

    threading.Thread(target=watch, daemon=True).start()


def peak_memory() -> int:
    """Return this process's peak resident memory so far, in bytes.

    On Linux from /proc: getrusage's maximum lives through exec, so that a small process started by a large one would
    report the large one's (fs/exec.c, setmax_mm_hiwater_rss).
    """
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        # macOS counts in bytes there, other systems than Linux are not supported.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
