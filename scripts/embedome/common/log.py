"""Logging to the terminal and to a rule's log file, and progress on long work."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from embedome.common.errors import user_errors
from embedome.common.process import exit_on_sigterm

log = logging.getLogger(__name__)

LINE_EVERY_S, FOLLOW_EVERY_S = 30.0, 1.0
ON_TERMINAL = "%(levelname)s %(message)s"
IN_FILE = f"%(asctime)s {ON_TERMINAL}"


def setup_logging(path: str | None = None, level: int = logging.INFO) -> None:
    """Send log lines to stderr and, where given, to a file; uncaught exceptions go there too.

    Lines have the time, but not on a terminal, where a person sees them come.

    Parameters
    ----------
    path : str, optional
        The file.
    level : int
        The least level of the lines. Of other libraries no line below `logging.INFO` is taken. Where warnings are left
        out, so are those of Python and other libraries.
    """
    terminal = logging.StreamHandler()
    terminal.setFormatter(logging.Formatter(ON_TERMINAL if sys.stderr.isatty() else IN_FILE))
    handlers: list[logging.Handler] = [terminal]
    if path:
        handlers.append(logging.FileHandler(path, mode="w", encoding="utf-8"))
    logging.basicConfig(level=max(level, logging.INFO), format=IN_FILE, handlers=handlers, force=True)
    logging.getLogger("embedome").setLevel(level)
    silence_libraries(bars=level > logging.WARNING or not sys.stderr.isatty(), warnings=level > logging.WARNING)
    sys.excepthook = log_uncaught


def silence_libraries(*, bars: bool, warnings: bool) -> None:
    """Leave out what other libraries write to stderr by themselves, in processes that this one starts too.

    Those that read the environment, transformers and huggingface_hub, do so when they are imported.
    """
    if bars:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if warnings:
        os.environ.update(TRANSFORMERS_VERBOSITY="error", PYTHONWARNINGS="ignore")
    logging.captureWarnings(warnings)


@contextmanager
def rule_log(paths: Sequence[str], *, offline: bool = True) -> Iterator[None]:
    """Run a rule's script: log to the rule's file and to stderr, end on a user's error with one line.

    On SIGTERM it ends as on an exception. Compute nodes often have no network: where a rule is `offline`, libraries are
    set not to look for one.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    setup_logging(paths[0])
    exit_on_sigterm()
    with user_errors():
        yield


def log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log an uncaught exception with its traceback."""
    logging.getLogger("embedome").critical("unexpected error, please report it", exc_info=(kind, error, trace))


class Progress:
    """Count work done: a bar on a terminal, a plain line every half minute in a log.

    Parameters
    ----------
    label : str
        What is being done, e.g. ``filter``.
    unit : str
        What is counted, e.g. ``sequences``.
    total : int, optional
        How much there is, where known; adds percentage and time left.
    """

    def __init__(self, label: str, unit: str, total: int | None = None) -> None:
        from tqdm import tqdm

        self.label, self.unit, self.total = label, unit, total
        self.done = 0
        self.started = self.line_at = time.monotonic()
        shown = sys.stderr.isatty() and log.getEffectiveLevel() <= logging.WARNING
        self.bar = tqdm(total=total, desc=label, unit=f" {unit}", unit_scale=True, disable=not shown)

    def update(self, count: int) -> None:
        """Add `count` to the work done."""
        self.done += count
        self.bar.update(count)
        if self.bar.disable and time.monotonic() - self.line_at >= LINE_EVERY_S:
            self.line_at = time.monotonic()
            log.info("%s", self.line())

    @contextmanager
    def follow(self, read: Callable[[], int]) -> Iterator[None]:
        """Take the work done from a count that others add to, every second until the block ends."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(FOLLOW_EVERY_S):
                self.update(read() - self.done)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            self.update(read() - self.done)

    def line(self) -> str:
        """Return the state as a line of text: count, rate, time left."""
        elapsed = max(time.monotonic() - self.started, 1e-9)
        rate = self.done / elapsed
        text = f"{self.label}: {self.done:,} {self.unit}, {rate:,.0f}/s"
        if self.total and rate:
            text += f", {100 * self.done / self.total:.0f} %, {(self.total - self.done) / rate:,.0f} s left"
        return text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()
