"""What a run says: lines of training.jsonl, and progress on the terminal or in the log."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from embedome.common.atomic_files import atomic_path, name_full_disk
from embedome.common.errors import UserError
from embedome.common.json_files import round_digits
from embedome.common.log import Progress

LINES = "training.jsonl"


class TrainingLog:
    """The lines of a run; of several processes the first one writes.

    Parameters
    ----------
    folder : Path
    steps : int
        Of the whole run.
    writes : bool
    """

    def __init__(self, folder: Path, steps: int, writes: bool) -> None:
        self.path, self.writes = folder / LINES, writes
        self.handle: TextIO | None = None
        self.steps, self.progress = steps, Progress("pretraining", "steps", steps)
        self.since: float = time.monotonic()
        self.tokens: int | None = None
        self.begun = 0
        # Of the device's peak, for each token per second; not known before the first step.
        self.peak_share: float | None = None

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.handle:
            self.handle.close()
        self.progress.bar.close()

    def cut(self, step: int) -> None:
        """Begin after a number of steps: lines of later ones, of a run that was killed, are left out."""
        if not self.writes:
            return
        kept = [line for line in read_lines(self.path) if line["step"] <= step] if step else []
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.handle = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed in __exit__
        # Steps of this process alone: they give the rate, and the time that is left.
        self.progress = Progress("pretraining", "steps", self.steps - step)
        self.begun = step

    def log_training(self, step: int, values: Mapping[str, Any]) -> None:
        """Write what the steps since the last line have given."""
        if not self.writes:
            return
        now, tokens = time.monotonic(), values["tokens"]
        rate = None if self.tokens is None else (tokens - self.tokens) / max(1e-9, now - self.since)
        self.since, self.tokens = now, tokens
        share = None if rate is None or self.peak_share is None else rate * self.peak_share
        self.write({"step": step, **values, "tokens_per_s": rate, "peak_share": share})
        speed = "" if share is None else f", {rate:,.0f} tokens/s, {100 * share:.0f} % of peak"
        self.progress.label = f"pretraining: loss {values['residue_loss']:.4f}{speed}"
        self.progress.update(step - self.begun - self.progress.done)

    def log_validation(self, step: int, values: Mapping[str, float]) -> None:
        """Write the losses on held-out sequences."""
        if self.writes:
            self.write({"step": step, "validation": dict(values)})

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line, at once."""
        if self.handle:
            with name_full_disk(self.path):
                self.handle.write(json.dumps(shorten_numbers(line)) + "\n")
                self.handle.flush()


def shorten_numbers(value: Any) -> Any:
    """Return a value with its numbers to six digits."""
    if isinstance(value, Mapping):
        return {name: shorten_numbers(each) for name, each in value.items()}
    return round_digits(value) if isinstance(value, float) else value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of training.jsonl; the last one may be cut off, where its writer was killed.

    Raises
    ------
    UserError
        Where another one is damaged.
    """
    text = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = []
    for number, line in enumerate(text, 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            if number < len(text):
                raise UserError(f"{path}: line {number} is no JSON; delete the file and run again") from None
    return found
