"""Python processes that are started, watched and killed."""

import faulthandler
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from embedome.common.process import exit_on_sigterm
from helpers.paths import SCRIPTS


def python_command(code: str, *arguments: object) -> list[str]:
    """The command line for `code`, which finds embedome and has `sys`."""
    return [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(SCRIPTS)!r})\n{code}", *map(str, arguments)]


def start_python(code: str, *arguments: object) -> subprocess.Popen:
    """Start a Python process on `code`; returns when it has printed ``ready``."""
    # A pipe of its own, as one that waits to be killed reads it.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(python_command(code, *arguments), **pipes, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def run_python(code: str, *arguments: object) -> float:
    """Run `code` to its end; gives the seconds from ``ready`` on."""
    with start_python(code, *arguments) as process:
        start = time.monotonic()
        assert process.wait(60) == 0
        return time.monotonic() - start


def output_of(code: str, *arguments: object) -> str:
    """What `code` prints, run in a process of its own."""
    return subprocess.run(python_command(code, *arguments), capture_output=True, text=True, check=True).stdout


def kill_at_random(
    code: str, arguments: Sequence[object], duration_s: float, times: int = 5, after: Callable[[], None] | None = None
) -> None:
    """Start `code` again and again, and kill it at some moment of its work; `after` looks at what each leaves."""
    chance = random.Random(9)
    killed = 0
    for turn in range(times):
        with start_python(code, *arguments) as process:
            # One moment out of each fifth of the time.
            time.sleep(duration_s * (turn + chance.random()) / times * 0.9)
            process.kill()
            killed += process.wait(60) == -signal.SIGKILL
        if after:
            after()
    assert killed >= times // 2, "the process was done before it was killed"


def stoppable(work: Callable[[], object]) -> None:
    exit_on_sigterm()
    work()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def crash(_: object) -> None:
    """End this process as a fault in a library written in C does."""
    faulthandler._sigsegv()  # type: ignore[attr-defined]
