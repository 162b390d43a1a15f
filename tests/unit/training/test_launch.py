"""Ranks on several nodes, with programs in the place of Slurm's; on a Slurm that is one: tests/slurm."""

import signal
import time

import pytest
from embedome.common.errors import UserError
from embedome.training.checkpoints import find_checkpoints
from embedome.training.launch import train_on
from helpers.fake_slurm import enter_job
from helpers.paths import SCRIPTS
from helpers.training_runs import SETTINGS, lines_of, make_stores, save_slowly_as_rank, start_ranks

TERMINATED = 128 + signal.SIGTERM


@pytest.fixture
def data(tmp_path):
    return make_stores(tmp_path / "data")


def train(data, folder, ranks, nodes):
    return train_on(ranks, data / "train", data / "val", folder / "run", folder / "model", SETTINGS, nodes)


@pytest.mark.slow
def test_the_result_depends_on_the_number_of_all_ranks_alone(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    enter_job(tmp_path / "slurm", monkeypatch)
    train(data, tmp_path / "one node", 2, 1)
    summary = train(data, tmp_path / "two nodes", 1, 2)
    assert summary["steps"] == SETTINGS.steps
    one, other = (tmp_path / name / "model" / "model.safetensors" for name in ("one node", "two nodes"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_no_rank_leaves_before_the_checkpoint_is_written(data, tmp_path, processes):
    """What has started them ends those that are left."""
    ranks = start_ranks(processes, 2, data, tmp_path, save_slowly_as_rank, steps=500)
    checkpoints = tmp_path / "run" / "checkpoints"
    deadline = time.monotonic() + 120
    while not find_checkpoints(checkpoints):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ranks[1].terminate()
    ranks[1].join(60)
    lines = lines_of(tmp_path)
    assert find_checkpoints(checkpoints)[-1].step == lines[-1]["step"] < 500
    ranks[0].join(60)
    assert [rank.exitcode for rank in ranks] == [TERMINATED] * 2


@pytest.mark.parametrize(("state", "asked"), [("RUNNING", ["requeue 7"]), ("COMPLETING", [])])
def test_ranks_that_were_told_to_stop_send_the_job_back_to_the_queue(data, tmp_path, monkeypatch, state, asked):
    slurm = enter_job(tmp_path / "slurm", monkeypatch, "7")
    slurm.put("srun", f"exit {TERMINATED}")
    slurm.set_state(state)
    with pytest.raises(SystemExit) as stopped:
        train(data, tmp_path, 1, 2)
    assert stopped.value.code == TERMINATED
    assert [line for line in slurm.asked() if line.startswith("requeue")] == asked


def test_a_rank_that_fails_is_an_error_and_the_job_ends(data, tmp_path, monkeypatch):
    slurm = enter_job(tmp_path / "slurm", monkeypatch)
    slurm.put("srun", "exit 1")
    with pytest.raises(UserError, match=r"^a rank of 16 has failed, as the log above says"):
        train(data, tmp_path, 8, 2)
    assert not any(line.startswith("requeue") for line in slurm.asked())


@pytest.mark.parametrize(("ranks", "nodes"), [(0, 2), (1, 0)])
def test_no_ranks_and_no_nodes_are_refused(data, tmp_path, ranks, nodes):
    with pytest.raises(UserError, match=r"^(ranks|nodes) is 0; expected 1 or more$"):
        train(data, tmp_path, ranks, nodes)
