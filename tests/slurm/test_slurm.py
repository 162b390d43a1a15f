"""`snakemake --profile slurm` on a real Slurm: two nodes on this machine, with accounting, preemption and faults.

Nothing here has a GPU: EMBEDOME_DEVICE runs the jobs on the CPU, while Slurm gives each a GPU all the same.
"""

import json
import logging
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.made_tasks import write_flip_pairs, write_own_residues
from helpers.slurm_cluster import NODES, Cluster, run, wait_for
from helpers.slurm_runs import SlurmRun, needs_slurm, processes
from helpers.workflow_runs import SMALL, changed, digests
from helpers.workflow_runs import run as run_here

log = logging.getLogger(__name__)
pytestmark = needs_slurm

# Shards of one size, two of which are under way while two wait; each of 19 parts, some ten seconds of work.
SLOW = changed(
    SMALL,
    demo={"sequences": 1500},
    split={"val": 0.25, "test": 0.25},
    model={
        "name": "tiny",
        "directory": "resources/models/tiny",
        "untrained": {
            **SMALL["model"]["untrained"],
            "layers": 4,
            "hidden": 384,
            "heads": 8,
            "feed_forward": 1536,
        },
    },
    embed={"part_sequences": 20},
)
# What --set-resources says on the command line takes the place of all that the profile says there.
EMBED, LEDGER = ("--until", "embed"), ("--until", "ledger")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slow configuration's whole run on this machine, without Slurm."""
    folder = tmp_path_factory.mktemp("here") / "run"
    result = run_here(folder, SLOW, *LEDGER)
    assert result.returncode == 0, result.stdout
    return folder


@pytest.fixture
def sharded(here: Path, tmp_path: Path) -> Path:
    """A folder in which all is done but embedding and what comes after."""
    folder = tmp_path / "run"
    shutil.copytree(here, folder)
    for name in ("embeddings", "dataset", "metrics", "ledger.json"):
        path = folder / "results" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


class Run(SlurmRun):
    """One that embeds."""

    def parts(self) -> dict[Path, tuple[int, int]]:
        """The finished parts: which file, and when it was written."""
        found = {}
        for path in (self.folder / "results" / "embeddings").rglob("*.parquet"):
            if re.fullmatch(r"\d{5}-\d{5}\.parquet", path.name):
                stat = path.stat()
                found[path] = (stat.st_ino, stat.st_mtime_ns)
        return found

    def under_way(self, cluster: Cluster, parts: int) -> tuple[list[str], dict[Path, tuple[int, int]]]:
        """Wait until each node embeds and `parts` parts are there; the jobs, and the parts."""

        def found() -> list[str]:
            jobs = cluster.running("rule_embed")
            under_way = len(jobs) == len(NODES) and all(map(processes, jobs))
            return jobs if under_way and len(self.parts()) >= parts else []

        jobs = wait_for("embed jobs under way", lambda: found() or self.process.poll() is not None, 300)
        assert self.process.poll() is None, self.text()
        return jobs, self.parts()

    def assert_completed(self, here: Path, before: dict[Path, tuple[int, int]]) -> None:
        """The shards are those of the run without Slurm, and no part that was finished was made again."""
        assert before
        assert before.items() <= self.parts().items()
        assert embeddings(self.folder) == embeddings(here)


def embeddings(folder: Path) -> dict[str, str]:
    """Digests of the embedded shards, on which the data set rests."""
    found = {name: digest for name, digest in digests(folder).items() if name.startswith("results/embeddings/")}
    assert found
    return found


def finish(first: Run, folder: Path) -> int:
    """Wait for a run, and where it failed, run it once more; the number of runs."""
    if first.wait() == 0:
        return 1
    again = Run(folder, SLOW, *EMBED)
    assert again.wait() == 0, again.text()
    return 2


def test_the_demo_runs_as_one_array_on_both_nodes_and_gives_the_same_bytes(
    cluster: Cluster, here: Path, tmp_path: Path
) -> None:
    known = {job["JobID"] for job in cluster.jobs()}
    annotate = {"labels": "resources/demo/mirror/families.tsv.gz", "label_column": "family", "hold_out": ["val"]}
    whole = Run(tmp_path / "run", changed(SLOW, annotate=annotate))
    assert whole.wait() == 0, whole.text()
    jobs = [job for job in cluster.jobs() if job["JobID"] not in known]
    embeds, annotates = (
        [job for job in jobs if f"rule_{rule}_wildcards" in job["Comment"]] for rule in ("embed", "annotate")
    )
    for array in (embeds, annotates):
        assert len(array) == 4
        assert {job["JobID"].partition("_")[0] for job in array} == {array[0]["JobID"].partition("_")[0]}
        assert all("_" in job["JobID"] for job in array)
    assert {job["NodeList"] for job in embeds} == set(NODES)
    assert all("gres/gpu=1" in job["AllocTRES"] for job in embeds)
    assert not any("gres/gpu" in job["AllocTRES"] for job in jobs if job not in embeds)
    assert {job["State"] for job in jobs} == {"COMPLETED"}
    # What needs the network runs where snakemake does.
    rules = {job["Comment"].removeprefix("rule_").partition("_wildcards")[0] for job in jobs}
    annotation = {"annotate_lookup", "annotate", "annotate_summary"}
    assert rules == {"filter", "split", "shard", "embed", "merge", "ledger", "analyse", "report"} | annotation
    found, expected = digests(whole.folder), digests(here)
    assert {name: found[name] for name in expected} == expected
    assert any("dataset" in name for name in expected)


def hit_jobs(cluster: Cluster, jobs: list[str]) -> None:
    """One job is stuck until its time limit, one is cancelled, and the next on its node is preempted."""
    for pid in processes(jobs[0]):
        os.kill(pid, signal.SIGSTOP)
    run("scancel", jobs[1])
    wait_for("the next job", lambda: len(set(cluster.running("rule_embed")) - {jobs[1]}) == 2, 60)
    [after] = set(cluster.running("rule_embed")) - set(jobs)
    node = run("squeue", "-h", "-j", after, "-o", "%N").strip()
    run("sbatch", "-p", "urgent", "-w", node, "--gres=gpu:1", "--mem=100", "-o", "/dev/null", "--wrap", "sleep 3")


def lose_node(cluster: Cluster, jobs: list[str]) -> None:
    """A node's daemon dies; its job runs on for a while, beside the one that is started instead."""
    cluster.stop("n2", signal.SIGKILL)
    wait_for("node down", lambda: "down" in " ".join(cluster.states()), 90)
    cluster.start("n2")


def restart_controller(cluster: Cluster, jobs: list[str]) -> None:
    """The controller is gone for some seconds, and jobs end meanwhile."""
    cluster.stop("slurmctld")
    time.sleep(8)
    cluster.start("slurmctld")


def lose_accounting(cluster: Cluster, jobs: list[str]) -> None:
    """The accounting is gone while jobs end."""
    cluster.stop("slurmdbd", signal.SIGKILL)
    time.sleep(20)
    cluster.start("slurmdbd")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "states"),
    [
        (hit_jobs, {"TIMEOUT", "CANCELLED", "PREEMPTED"}),
        (lose_node, set()),
        (restart_controller, set()),
        (lose_accounting, set()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_costs_no_finished_part_and_no_byte(
    cluster: Cluster,
    here: Path,
    sharded: Path,
    fault: Callable[[Cluster, list[str]], None],
    states: set[str],
) -> None:
    known = cluster.jobs()
    first = Run(sharded, SLOW, *EMBED, "--set-resources", "embed:runtime=1", "embed:gpu=1")
    jobs, before = first.under_way(cluster, 6)
    fault(cluster, jobs)
    runs = finish(first, sharded)
    log.info("%s: complete after %d run(s), %d parts were there at the fault", fault.__name__, runs, len(before))
    Run.assert_completed(first, here, before)
    ended = [job for job in cluster.jobs() if job not in known]
    assert states <= {job["State"].split()[0] for job in ended}


@pytest.mark.slow
def test_a_job_out_of_memory_gets_more_at_the_next_attempt(cluster: Cluster, here: Path, sharded: Path) -> None:
    known = {job["JobID"] for job in cluster.jobs()}
    first = Run(sharded, SLOW, *EMBED, "--set-resources", "embed:mem_mb=attempt*attempt*180", "embed:gpu=1")
    code = first.wait()
    assert code == 0, first.text()
    # Killed by Slurm; with cgroups, which this cluster goes without, the state would be OUT_OF_MEMORY.
    ended = [job for job in cluster.jobs() if job["JobID"] not in known]
    assert any(job["ExitCode"] == "0:9" for job in ended)
    assert embeddings(sharded) == embeddings(here)


@pytest.mark.slow
def test_a_job_that_asked_for_a_gpu_does_not_run_on_the_cpu(cluster: Cluster, sharded: Path) -> None:
    first = Run(sharded, SLOW, *EMBED, "--retries", "0", device=None)
    assert first.wait() != 0
    logs = "".join(path.read_text() for path in (sharded / "results" / "logs" / "embed").rglob("*.log"))
    assert "a GPU was asked for, but torch" in logs
    assert "CUDA_VISIBLE_DEVICES: " in logs
    assert not first.parts()


@pytest.mark.slow
def test_merge_on_dask_workers_of_the_cluster(cluster: Cluster, here: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(here, folder)
    shutil.rmtree(folder / "results" / "dataset")
    dask = {"cluster": "slurm", "jobs": 2, "memory_mb": 1500, "runtime": 10}
    known = {job["JobID"] for job in cluster.jobs()}
    merged = Run(folder, changed(SLOW, dask=dask), *LEDGER)
    assert merged.wait() == 0, merged.text()
    workers = [job for job in cluster.jobs() if job["JobName"] == "embedome-dask" and job["JobID"] not in known]
    assert len(workers) == 2
    wait_for("no worker left", lambda: "embedome-dask" not in run("squeue", "-h", "-o", "%j"), 60)
    assert digests(folder) == digests(here)


def stamps(folder: Path, pattern: str) -> dict[Path, tuple[int, int]]:
    """Which files of a pattern there are, and when they were written."""
    found = ((path, path.stat()) for path in folder.glob(pattern))
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found}


@pytest.mark.slow
def test_tasks_are_one_array_and_a_killed_one_computes_no_features_twice(cluster: Cluster, tmp_path: Path) -> None:
    known = {job["JobID"] for job in cluster.jobs()}
    folder, names = tmp_path / "run", ("secondary_structure", "kinds")
    write_flip_pairs(folder / "tasks", {"train": 1500, "val": 50, "test": 50})
    write_own_residues(folder / "kinds.fasta", folder / "kinds.tsv", {"train": 1500, "val": 50, "test": 50})
    data = (["tasks"], ["kinds.fasta", "kinds.tsv"])
    tasks = [{"name": name, "data": files} for name, files in zip((names[0], "own"), data, strict=True)]
    config = changed(SMALL, evaluate={"tasks": tasks, "methods": ["frozen"], "heads": ["convolutions"], "seeds": 6})
    memory = ("--set-resources", "evaluate:mem_mb=attempt*1500", "evaluate:gpu=1")
    whole = Run(folder, config, *memory, "--", "evaluate_table")
    results, done = folder / "results" / "evaluation", {}

    def heads() -> bool:
        """Whether each task has a head, so that features are whole."""
        return all(stamps(results, f"*/{name}/frozen/*.seed0.json") for name in names)

    try:
        wait_for("a head of each task", lambda: heads() or whole.process.poll() is not None, 300)
        for job in cluster.running("rule_evaluate"):
            for pid in processes(job, "evaluate"):
                os.kill(pid, signal.SIGKILL)
        for pattern in ("cache/features/*/vectors.f16", "*/*/frozen/*.seed0.json"):
            done |= stamps(results, pattern)
        # Of the same proteins both have the same features, which one job has waited for.
        assert sorted(path.suffix for path in done) == [".f16", ".json", ".json"]
        assert whole.wait() == 0, whole.text()
    finally:
        run("scancel", "-u", "root")
    assert done.items() <= stamps(results, "**/*").items()
    jobs = [job for job in cluster.jobs() if job["JobID"] not in known and "rule_evaluate_w" in job["Comment"]]
    first = {job["JobID"].partition("_")[0] for job in jobs if job["State"] == "FAILED"}
    assert len(first) == 1, jobs
    assert sorted(job["State"] for job in jobs) == ["COMPLETED"] * 2 + ["FAILED"] * 2
    for name in names:
        [scored] = json.loads((results / "esm1nv-demo" / name / "frozen.json").read_text())["results"]
        assert len(scored["runs"]) == 6


@pytest.mark.slow
def test_a_thousand_shards_are_submitted_as_few_arrays(cluster: Cluster, sharded: Path) -> None:
    """The nodes are full: what counts is planning and submission."""
    config = changed(SLOW, shard={"val": 1, "test": 1, "train": 998})
    for name in ("shards", "summaries/shard.json"):
        path = sharded / "results" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    result = run_here(sharded, config, "--until", "shard")
    assert result.returncode == 0, result.stdout
    run("scontrol", "update", "nodename=n[1-2]", "state=drain", "reason=test")
    try:
        begin, controller = time.monotonic(), cluster.cpu_seconds("slurmctld")
        first = Run(sharded, config, *LEDGER)
        wait_for("200 jobs in the queue", lambda: len(queued()) >= 200 or first.process.poll() is not None, 240)
        seconds = time.monotonic() - begin
        assert first.process.poll() is None, first.text()
        arrays = {job.partition("_")[0] for job in queued()}
        files = len(list(Path(f"/proc/{first.process.pid}/fd").iterdir()))
        controller = cluster.cpu_seconds("slurmctld") - controller
        log.info("%d tasks in %d array(s) after %.1f s, %d open files", len(queued()), len(arrays), seconds, files)
        log.info("slurmctld used %.2f s of a core meanwhile", controller)
        assert len(arrays) <= 2
        assert files < 300
    finally:
        os.killpg(first.process.pid, signal.SIGINT)
        first.wait(120)
        run("scancel", "-u", "root")
        run("scontrol", "update", "nodename=n[1-2]", "state=resume")
    wait_for("an empty queue", lambda: not queued(), 60)


def queued() -> list[str]:
    """Ids of the tasks that wait."""
    return run("squeue", "-h", "-r", "-t", "PD", "-o", "%i", check=False).split()
