"""Programs in the place of Slurm's: what a job sees of a cluster, on this machine."""

from pathlib import Path

import pytest

# Starts as many processes as it is told tasks, numbered as srun does, and ends with the highest exit code.
SRUN = """\
for option in "$@"; do
    case $option in
    --ntasks=*) tasks=${option#--ntasks=} ;;
    --ntasks-per-node=*) here=${option#--ntasks-per-node=} ;;
    esac
done
while [ "${1#--}" != "$1" ]; do shift; done
code=0; pids=
for task in $(seq 0 $((tasks - 1))); do
    SLURM_PROCID=$task SLURM_LOCALID=$((task % here)) "$@" &
    pids="$pids $!"
done
for pid in $pids; do wait $pid || code=$?; done
exit $code
"""
SQUEUE = """\
case "$*" in
*%N*) echo 'gpu-[07-08]' ;;
*%T*) cat "$(dirname "$0")/../state" ;;
esac
"""
SCONTROL = """\
echo "$@" >> "$(dirname "$0")/../asked"
case "$*" in
"show hostnames gpu-[07-08]") printf 'gpu-07\\ngpu-08\\n' ;;
"show node gpu-07 --oneliner") echo 'NodeName=gpu-07 Arch=x86_64 NodeAddr=127.0.0.1 State=MIXED' ;;
"requeue "*) ;;
*) echo "unexpected $*" >&2; exit 1 ;;
esac
"""


class FakeSlurm:
    """A job of two nodes; programs can be replaced.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        for name, text in {"srun": SRUN, "squeue": SQUEUE, "scontrol": SCONTROL}.items():
            self.put(name, text)
        self.set_state("RUNNING")

    def put(self, name: str, text: str) -> None:
        """Put a program in place."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)

    def set_state(self, state: str) -> None:
        """Set what squeue says of the job."""
        (self.folder / "state").write_text(state + "\n")

    def asked(self) -> list[str]:
        """What scontrol was asked."""
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []


def enter_job(folder: Path, monkeypatch: pytest.MonkeyPatch, job: str = "4123456") -> FakeSlurm:
    """Have this process be in a job of a Slurm that is not one."""
    slurm = FakeSlurm(folder)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", job)
    return slurm
