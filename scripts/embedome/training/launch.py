"""A run as a process of its own, or as several by torchrun: what command and rule start, and what is started.

python -m embedome.training.launch JOB.json
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import embedome
from embedome.common.errors import UserError, user_errors
from embedome.common.json_files import read_json, write_json
from embedome.common.log import setup_logging
from embedome.common.process import exit_on_sigterm
from embedome.training.run import SUMMARY, train_run
from embedome.training.settings import PretrainSettings

JOB = "job.json"


def train_on(
    ranks: int,
    train: str | os.PathLike,
    val: str | os.PathLike,
    run: str | os.PathLike,
    model: str | os.PathLike,
    settings: PretrainSettings,
) -> dict[str, Any]:
    """Do what `train_run` does, in this process or, of several ranks, in one for each.

    Raises
    ------
    UserError
        As `train_run`; where a rank has failed, its own line is in the log.
    SystemExit
        On SIGTERM, once the ranks have written a checkpoint.
    """
    if ranks < 1:
        raise UserError(f"ranks is {ranks}; expected 1 or more")
    if ranks == 1:
        return train_run(train, val, run, model, settings)
    paths = {"train": train, "val": val, "run": run, "model": model}
    job = Path(run) / JOB
    write_json(job, {**{name: str(path) for name, path in paths.items()}, "settings": asdict(settings)})
    run_ranks(ranks, job)
    return read_json(Path(run) / SUMMARY)


def run_ranks(ranks: int, job: Path) -> None:
    """Start the ranks of a job, wait for them, and pass SIGTERM on to them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    path = os.pathsep.join(filter(None, [str(Path(embedome.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [*command, "-m", "embedome.training.launch", str(job)], env={**os.environ, "PYTHONPATH": path}
    )
    try:
        code = process.wait()
    except (SystemExit, KeyboardInterrupt):
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    if code:
        raise UserError(f"a rank of {ranks} has failed, as the log above says; finished work is kept, run again")


def main(arguments: Sequence[str]) -> None:
    """Run a rank; the first one logs."""
    if os.environ.get("RANK", "0") == "0":
        setup_logging()
    exit_on_sigterm()
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    settings = PretrainSettings(**job.pop("settings"))
    with user_errors():
        train_run(**job, settings=settings)


if __name__ == "__main__":
    main(sys.argv[1:])
