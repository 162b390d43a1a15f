"""What is asked of Slurm for ranks on several nodes, and how they find each other."""

import pytest
from embedome.common.errors import UserError
from embedome.training.slurm_step import find_job, meeting_point, requeue, step_command, take_place
from helpers.fake_slurm import enter_job


def test_a_task_is_started_for_each_rank():
    assert step_command(8, 4, 2, ["python", "-m", "x"]) == [
        "srun",
        "--nodes=8",
        "--ntasks=32",
        "--ntasks-per-node=4",
        "--cpus-per-task=2",
        "--distribution=block",
        "--gpu-bind=none",
        "--export=ALL",
        "--kill-on-bad-exit=0",
        "--wait=60",
        "python",
        "-m",
        "x",
    ]
    assert "--cpus-per-task=1" in step_command(2, 1, None, ["x"])


def test_ranks_meet_on_the_first_node_at_a_port_of_the_job(tmp_path, monkeypatch):
    enter_job(tmp_path / "slurm", monkeypatch, "4123456")
    assert meeting_point(find_job(2), 2, 8) == {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "23456",
        "WORLD_SIZE": "16",
    }


@pytest.mark.parametrize(("shown", "address"), [("NodeName=gpu-07 State=IDLE", "gpu-07"), ("NodeAddr=a.b", "a.b")])
def test_a_node_without_an_address_is_met_by_its_name(tmp_path, monkeypatch, shown, address):
    slurm = enter_job(tmp_path / "slurm", monkeypatch)
    slurm.put("scontrol", f"case $2 in hostnames) echo gpu-07; echo gpu-08;; *) echo '{shown}';; esac")
    assert meeting_point("1", 2, 1)["MASTER_ADDR"] == address


def test_a_job_with_fewer_nodes_is_refused(tmp_path, monkeypatch):
    enter_job(tmp_path / "slurm", monkeypatch)
    with pytest.raises(UserError, match=r"^Slurm job 7 has 2 nodes, model.pretrain.nodes is 3; ask for as many$"):
        meeting_point("7", 3, 1)


def test_what_slurm_says_is_one_line(tmp_path, monkeypatch):
    slurm = enter_job(tmp_path / "slurm", monkeypatch)
    slurm.put("squeue", "printf 'slurm_load_jobs error:\\n  Unable to contact\\n' >&2; exit 1")
    with pytest.raises(UserError, match=r"^squeue .*: slurm_load_jobs error: Unable to contact; run again when Slurm"):
        meeting_point("7", 2, 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^squeue: no such program in this job's PATH"):
        meeting_point("7", 2, 1)


def test_outside_of_slurm_it_is_said_so(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match=r"^nodes is 2, but this is no job of Slurm; run snakemake with"):
        find_job(2)


def test_a_rank_has_the_number_of_its_task_unless_torchrun_gave_it_one():
    environment = {"SLURM_PROCID": "9", "SLURM_LOCALID": "1"}
    take_place(environment)
    assert (environment["RANK"], environment["LOCAL_RANK"]) == ("9", "1")
    # A job of one node is a task, too, within which torchrun starts the ranks.
    environment = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "RANK": "3", "LOCAL_RANK": "3"}
    take_place(environment)
    assert (environment["RANK"], environment["LOCAL_RANK"]) == ("3", "3")


def test_a_job_that_is_cancelled_does_not_come_back(tmp_path, monkeypatch):
    slurm = enter_job(tmp_path / "slurm", monkeypatch)
    slurm.set_state("COMPLETING")
    assert not requeue("7")
    assert slurm.asked() == []
    slurm.set_state("RUNNING")
    assert requeue("7")
    assert slurm.asked() == ["requeue 7"]
    slurm.put("scontrol", "echo 'Requested operation is presently disabled' >&2; exit 1")
    assert not requeue("7")
