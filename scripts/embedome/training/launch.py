"""A run in this process, as several by torchrun, or on several nodes by srun: what is started, and by what.

python -m embedome.training.launch JOB.json
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import embedome
from embedome.common.errors import UserError, user_errors
from embedome.common.json_files import read_json, write_json
from embedome.common.log import setup_logging
from embedome.common.process import TERMINATED_EXIT, exit_on_sigterm
from embedome.training.run import SUMMARY, train_run
from embedome.training.settings import PretrainSettings
from embedome.training.slurm_step import find_job, meeting_point, requeue, step_command, take_place

log = logging.getLogger(__name__)

JOB = "job.json"
# Of the first rank, as that of the process that starts the ranks.
LOG_LEVEL = "log_level"


def train_on(
    ranks: int,
    train: str | os.PathLike,
    val: str | os.PathLike,
    run: str | os.PathLike,
    model: str | os.PathLike,
    settings: PretrainSettings,
    nodes: int = 1,
) -> dict[str, Any]:
    """Do what `train_run` does, in this process or, of several ranks, in one for each.

    Parameters
    ----------
    ranks : int
        Processes on each node.
    train, val, run, model, settings
        As for `train_run`.
    nodes : int
        Of the Slurm job that this process is in; the result depends on the number of all ranks alone.

    Raises
    ------
    UserError
        As `train_run`; where a rank has failed, its own line is in the log. Where several nodes are asked for outside
        of Slurm.
    SystemExit
        On SIGTERM, once the ranks have written a checkpoint.
    """
    for name, count in (("ranks", ranks), ("nodes", nodes)):
        if count < 1:
            raise UserError(f"{name} is {count}; expected 1 or more")
    if nodes == ranks == 1:
        return train_run(train, val, run, model, settings)
    paths = {"train": train, "val": val, "run": run, "model": model}
    job = Path(run) / JOB
    places = {name: str(path) for name, path in paths.items()}
    write_json(job, {**places, "settings": asdict(settings), LOG_LEVEL: log.getEffectiveLevel()})
    program = ["-m", "embedome.training.launch", str(job)]
    if nodes > 1:
        run_on_nodes(nodes, ranks, settings.threads, program)
    else:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        check_ended(start([*torchrun, *program]), ranks)
    return read_json(Path(run) / SUMMARY)


def run_on_nodes(nodes: int, ranks: int, threads: int | None, program: Sequence[str]) -> None:
    """Run the ranks in a step of this Slurm job; where they were told to stop and this process was not, requeue it.

    Slurm signals the steps alone some time before it ends a job, where that is asked for (``--signal``), and when a
    job with a grace period is preempted. A job that ends then would count as failed.
    """
    job = find_job(nodes)
    others = meeting_point(job, nodes, ranks)
    code = start(step_command(nodes, ranks, threads, [sys.executable, *program]), others)
    if code == TERMINATED_EXIT:
        if requeue(job):
            log.info("told to stop, a checkpoint is written; Slurm job %s is back in the queue", job)
        sys.exit(code)
    check_ended(code, nodes * ranks)


def start(command: Sequence[str], others: Mapping[str, str] | None = None) -> int:
    """Run the ranks of a job, pass SIGTERM on to them, and return the exit code.

    Parameters
    ----------
    command : sequence of str
    others : mapping, optional
        Further variables of their environment.
    """
    path = os.pathsep.join(filter(None, [str(Path(embedome.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path, **(others or {})})
    try:
        return process.wait()
    except (SystemExit, KeyboardInterrupt):
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise


def check_ended(code: int, ranks: int) -> None:
    """Check that all ranks have ended well.

    Raises
    ------
    UserError
    """
    if code:
        raise UserError(f"a rank of {ranks} has failed, as the log above says; finished work is kept, run again")


def main(arguments: Sequence[str]) -> None:
    """Run a rank; the first one logs."""
    take_place(os.environ)
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    level = job.pop(LOG_LEVEL)
    if os.environ.get("RANK", "0") == "0":
        setup_logging(level=level)
    exit_on_sigterm()
    settings = PretrainSettings(**job.pop("settings"))
    with user_errors():
        train_run(**job, settings=settings)


if __name__ == "__main__":
    main(sys.argv[1:])
