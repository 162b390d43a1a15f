"""Steps run one after the other in one process; each row is written as soon as it is there."""

import importlib
import json
import math
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_steps.plan import BY_NAME

if TYPE_CHECKING:
    from gpu_steps.bench import Bench

# Of every row: what it is about, and whether a tolerance is broken. Of a step's last row: how it ended.
WHAT, BROKEN, ENDED, ERROR = "what", "broken", "ended", "error"
# Exit status of a process whose remaining steps are for another one, and of one that finds no device.
NEW_PROCESS, NO_DEVICE = 75, 69
NEW_LINE = "\n"


class Rows:
    """A file of JSON lines, which are printed too.

    Parameters
    ----------
    path : pathlib.Path
        Rows are added to what is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, step: str, **row: Any) -> None:
        """Write a row, so that it is there whatever comes next."""
        line = json.dumps({"step": step, **{key: round_digits(value) for key, value in row.items()}})
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
        print(line, flush=True)

    def read(self) -> list[dict[str, Any]]:
        """All rows so far."""
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]


def round_digits(value: Any) -> Any:
    """A number in five digits; JSON has none that is not finite."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else str(value)


def run_steps(bench: "Bench", names: Sequence[str], rows: Rows, deadline: float) -> None:
    """Run steps until the deadline (of `time.time`); one that fails is recorded, and the others are run.

    Raises
    ------
    SystemExit
        With `NEW_PROCESS`, where the device does not work in this process any more.
    """
    for name in names:
        step, begin = BY_NAME[name], time.time()
        if begin >= deadline:
            return
        try:
            module = importlib.import_module(f"gpu_steps.{step.module}")
            # What only proves that the steps run has no need of the times.
            until = deadline if bench.small else min(begin + step.seconds, deadline)
            ended = pass_on(getattr(module, name)(bench), rows, name, until)
        except Exception as error:
            message = f"{type(error).__name__}: {str(error).partition(NEW_LINE)[0]}"
            rows.write(name, error=message, trace=traceback.format_exc())
            ended = ERROR
        rows.write(name, ended=ended, seconds=time.time() - begin)
        if not bench.works():
            sys.exit(NEW_PROCESS)


def pass_on(found: Iterator[dict[str, Any]], rows: Rows, name: str, until: float) -> str:
    """Write the rows of a step, until its time is over; say how it ended."""
    for row in found:
        rows.write(name, **row)
        if time.time() > until:
            return "its time was over: rows may be missing"
    return "done"
