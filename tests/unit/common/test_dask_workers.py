"""Dask workers: tasks at once, errors as they were raised, and the Slurm jobs that would be asked for."""

import shlex
import subprocess
import threading
from pathlib import Path

import pytest
from embedome.common.dask_workers import DaskWorkers
from embedome.common.errors import UserError
from helpers.paths import SCRIPTS
from helpers.processes import python_command

BARRIER = threading.Barrier(3, timeout=20)


def meet(_: int) -> int:
    return BARRIER.wait()


def fail(what: str) -> None:
    raise UserError(what)


def test_local_workers_run_one_task_more_at_once_than_they_have_cores() -> None:
    with DaskWorkers(threads=2).client() as client:
        assert sorted(client.gather(client.map(meet, range(3)))) == [0, 1, 2]


def test_a_task_s_error_is_raised_as_it_was() -> None:
    with DaskWorkers().client() as client, pytest.raises(UserError, match=r"^part 7 is bad$"):
        client.get_executor(pure=False).submit(fail, "part 7 is bad").result()


FAIL = """
from embedome.common.dask_workers import DaskWorkers
from embedome.common.errors import UserError

def fail():
    raise UserError("part 7 is bad")

with DaskWorkers().client() as client:
    try:
        client.submit(fail).result()
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_dask_says_nothing_of_an_error_that_whoever_asked_is_told() -> None:
    result = subprocess.run(python_command(FAIL), capture_output=True, text=True, check=True)
    assert result.stdout == "part 7 is bad\n"
    assert "Compute Failed" not in result.stderr


def test_slurm_workers_ask_for_what_is_configured_in_the_account_and_partition_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\ncp "$1" {shlex.quote(str(tmp_path))}/script.$$\necho Submitted batch job $$\n')
    (tmp_path / "scancel").write_text("#!/bin/sh\n")
    for program in (sbatch, tmp_path / "scancel"):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ACCOUNT", "bio")
    monkeypatch.setenv("SLURM_JOB_PARTITION", "cpus")
    workers = DaskWorkers("slurm", jobs=2, memory_mb=3000, runtime=90, logs=str(tmp_path / "logs"))
    assert workers.at_once == 2
    with workers.start() as cluster:
        cluster.sync(cluster._correct_state)
    scripts = [path.read_text() for path in tmp_path.glob("script.*")]
    assert len(scripts) == 2
    for line in ("-A bio", "-p cpus", "-n 1", "--cpus-per-task=1", "--mem=3G", "-t 01:30:00"):
        assert f"#SBATCH {line}\n" in scripts[0]
    package = SCRIPTS
    assert f"export PYTHONPATH='{package}'" in scripts[0]
