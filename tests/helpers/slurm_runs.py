"""snakemake --profile slurm, under way on the tests' cluster."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest
from helpers.slurm_cluster import run, why_not
from helpers.workflow_runs import ROOT, command

REASON = why_not()
needs_slurm = pytest.mark.skipif(REASON is not None, reason=str(REASON))
FAST_CHECKS = ("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2")


class SlurmRun:
    """snakemake under way, on the cluster."""

    def __init__(self, folder: Path, config: dict | None, *arguments: str, device: str | None = "cpu") -> None:
        line = command(folder, config, "--profile", "slurm", *FAST_CHECKS, *arguments)
        at = line.index("--cores")
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if device:
            environment["EMBEDOME_DEVICE"] = device
        self.folder = folder
        self.log = folder / "snakemake.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                line[:at] + line[at + 2 :], cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, seconds: float = 900) -> int:
        """Wait for the end; the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"no end after {seconds:.0f} s: {self.text()}") from None

    def end(self) -> None:
        """End it where it is still under way."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def text(self) -> str:
        return self.log.read_text()


def processes(job: str, script: str = "embed") -> list[int]:
    """The processes of a job that embed, or run another script; none where it has just begun or is over."""
    mark = f"SLURM_JOB_ID={run('squeue', '-h', '-j', job, '-o', '%A', check=False).strip()}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            runs = f".{script}.py".encode() in (folder / "cmdline").read_bytes()
            if runs and mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
