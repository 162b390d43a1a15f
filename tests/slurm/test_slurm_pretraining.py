"""Rule pretrain on two nodes, a rank on each: told to stop, preempted, a node lost, and the same bytes in the end."""

import contextlib
import hashlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from embedome.training.checkpoints import find_checkpoints
from helpers.slurm_cluster import NODES, Cluster, run, wait_for
from helpers.slurm_runs import SlurmRun, needs_slurm
from helpers.workflow_runs import SMALL, changed
from helpers.workflow_runs import run as run_here

pytestmark = [needs_slurm, pytest.mark.slow]

STEPS, BETWEEN = 240, 15
SECTION = {
    "recipe": "demo",
    "steps": STEPS,
    "tokens": 3000,
    "layers": 1,
    "decoder_layers": None,
    "hidden": 32,
    "heads": 4,
    "feed_forward": 64,
    "positions": 128,
    "init": None,
    "seed": 0,
    "nodes": 2,
    "ranks": 1,
    "threads": 1,
}
# Two nodes with a GPU each, by name alone.
ARGUMENTS = ("--until", "pretrain", "--set-resources", "pretrain:gres=gpu:1", "pretrain:mem_mb=2000")
NAME = "esm1nv-demo"


def configuration(**changes: Any) -> dict:
    """A workflow that trains."""
    return changed(SMALL, demo={"sequences": 1500}, model={"untrained": None, "pretrain": {**SECTION, **changes}})


def weights(folder: Path) -> str:
    """Digest of the model that a run made."""
    path = folder / "resources" / "models" / NAME / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Training(SlurmRun):
    """One that trains on both nodes."""

    def checkpoint(self) -> int:
        """The step of the last checkpoint, 0 where there is none."""
        found = find_checkpoints(self.folder / "results" / "pretraining" / NAME / "checkpoints")
        return found[-1].step if found else 0

    def step(self) -> int:
        """The last step that the log of the training has; 0 where there is none."""
        path = self.folder / "results" / "pretraining" / NAME / "training.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return max((int(line.partition('"step":')[2].split(",")[0]) for line in lines if '"step"' in line), default=0)

    def await_ranks(self, cluster: Cluster, step: int) -> str:
        """Wait until both ranks train and a step is done; the job."""

        def ready() -> bool:
            jobs = cluster.running("rule_pretrain")
            return bool(jobs) and len(ranks(jobs[0])) == len(NODES) and self.step() >= step

        wait_for(f"step {step}", lambda: ready() or self.process.poll() is not None, 300)
        assert self.process.poll() is None, self.text()
        [job] = cluster.running("rule_pretrain")
        return job

    def await_requeue(self, job: str, restarts: int) -> None:
        """Wait until Slurm has sent a job back to the queue this often."""
        wait_for("requeue", lambda: restarts_of(job) == restarts or self.process.poll() is not None, 120)
        assert self.process.poll() is None, self.text()


def ranks(job: str) -> dict[str, int]:
    """Process ids of a job's ranks, by their nodes."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            if (
                b"embedome.training.launch" in (folder / "cmdline").read_bytes()
                and f"SLURM_JOB_ID={job}".encode() in variables
            ):
                [node] = (each for each in variables if each.startswith(b"SLURMD_NODENAME="))
                if any(each.startswith(b"SLURM_PROCID=") for each in variables):
                    found[node.decode().partition("=")[2]] = int(folder.name)
    return found


def restarts_of(job: str) -> int:
    """How often Slurm has sent a job back to the queue."""
    return int(run("squeue", "-h", "-j", job, "-O", "RestartCnt", check=False).strip() or -1)


def parent(pid: int) -> int:
    """The process that started another one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextlib.contextmanager
def without_power(cluster: Cluster, job: str, node: str) -> Iterator[None]:
    """A node is gone in the block: nothing of it answers, and no connection is closed."""
    rank = ranks(job)[node]
    gone = [rank, parent(rank)]
    for pid in gone:
        os.kill(pid, signal.SIGSTOP)
    cluster.stop(node, signal.SIGKILL)
    try:
        yield
    finally:
        for pid in gone:
            os.kill(pid, signal.SIGKILL)
        cluster.start(node)


def folder_before(done: Path, folder: Path) -> Path:
    """A folder in which all is done but the training."""
    shutil.copytree(done, folder)
    for path in (folder / "resources" / "models", folder / "results" / "pretraining"):
        shutil.rmtree(path)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks on this machine, without Slurm."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    result = run_here(folder, configuration(nodes=1, ranks=2), "--until", "pretrain")
    assert result.returncode == 0, result.stdout
    return folder


def test_stopped_preempted_and_a_node_lost_it_ends_with_the_bytes_of_an_undisturbed_run(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
) -> None:
    known = {job["JobID"] for job in cluster.jobs()}
    training = Training(folder_before(undisturbed, tmp_path / "run"), configuration(), *ARGUMENTS)
    try:
        job = training.await_ranks(cluster, BETWEEN)
        seen = training.step()
        # As Slurm warns a job before its time is over: its steps alone.
        run("scancel", "--signal=TERM", job)
        training.await_requeue(job, 1)
        assert training.checkpoint() >= seen
        assert training.await_ranks(cluster, training.checkpoint() + BETWEEN) == job
        seen, preempted = training.step(), ranks(job)
        run("sbatch", "-p", "urgent", "-w", "n2", "--gres=gpu:1", "--mem=100", "-o", "/dev/null", "--wrap", "sleep 3")
        training.await_requeue(job, 2)
        wait_for("no ranks", lambda: not any(Path(f"/proc/{pid}").exists() for pid in preempted.values()), 30)
        assert training.checkpoint() >= seen
        assert training.await_ranks(cluster, training.checkpoint() + BETWEEN) == job
        with without_power(cluster, job, "n2"):
            training.await_requeue(job, 3)
        assert training.step() < STEPS
        assert training.wait() == 0, training.text()
    finally:
        training.end()
        run("scancel", "-u", "root")
    jobs = [each for each in cluster.jobs() if each["JobID"] not in known and "rule_pretrain" in each["Comment"]]
    # One job, from the first step to the last.
    assert {each["JobID"] for each in jobs} == {job}
    assert all("gres/gpu=2" in each["AllocTRES"] and "node=2" in each["AllocTRES"] for each in jobs)
    assert weights(training.folder) == weights(undisturbed)
