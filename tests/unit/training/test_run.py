"""Whole runs: the same bytes after any crash, the same curve on any number of ranks, refusals that lose nothing."""

import io
import json
import random
import resource
import signal
import time

import numpy as np
import pytest
import torch
from embedome.common.errors import USER_ERROR_EXIT, UserError, user_errors
from embedome.common.json_files import json_sha256
from embedome.models.create import make_untrained
from embedome.models.directory import load_model, model_identity
from embedome.training import run as run_module
from embedome.training import settings as settings_module
from embedome.training import trainer
from embedome.training.checkpoints import find_checkpoints
from embedome.training.run import train_run
from embedome.training.training_log import TrainingLog
from helpers.small_run import snapshot
from helpers.stores import random_sequences, store_of
from helpers.training_models import SIZES
from helpers.training_runs import (
    SETTINGS,
    curve_of,
    disagree_as_rank,
    lines_of,
    make_stores,
    run_ranks,
    start_ranks,
    train_in,
)
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_stores(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that was not disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    train_in(data, folder)
    return folder


def steps_of(folder):
    return [line["step"] for line in lines_of(folder) if "validation" not in line]


def test_a_run_writes_a_model_that_says_how_it_was_trained(whole, data):
    summary = json.loads((whole / "run" / "summary.json").read_text())
    assert load_model(whole / "model").encoder.n_layers == 1
    identity = model_identity(whole / "model")
    assert (identity["name"], identity["trained"]) == ("small", True)
    about = json.loads((whole / "model" / "config.json").read_text())["embedome"]["pretraining"]
    stores = [json.loads((data / name / "store.json").read_text()) for name in ("train", "val")]
    assert {name: value for name, value in about.items() if name != "data"} == summary
    digests = [json_sha256(store["sha256"]) for store in stores]
    assert about["data"] == {
        name: {"sha256": digest, "sequences": store["sequences"], "source": {"name": "test"}}
        for name, digest, store in zip(("train", "val"), digests, stores, strict=True)
    }
    assert identity["pretraining"] == about
    assert summary["steps"] == 12
    assert summary["parameters"] == sum(
        tensor.numel()
        for name, tensor in load_file(whole / "model" / "model.safetensors").items()
        if "token_type" not in name
    )
    assert summary["sequences"] == pytest.approx(summary["epochs"] * 150)
    assert steps_of(whole) == [*range(1, 13)]
    assert [line["step"] for line in lines_of(whole) if "validation" in line] == [0, *range(1, 13)]


def test_a_run_that_is_done_is_not_done_again(whole, data):
    before = snapshot(whole / "model")
    lines = lines_of(whole)
    train_in(data, whole)
    assert snapshot(whole / "model") == before
    assert lines_of(whole) == lines


@pytest.mark.parametrize("turn", [0, 1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 23))])
def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(whole, data, tmp_path, processes, turn):
    chance = random.Random(turn)
    [process] = start_ranks(processes, 1, data, tmp_path)
    # Some within the writing of a checkpoint, which is most of the time of so small a run.
    processes.kill(process, chance.uniform(0, 1.0), (tmp_path / "run" / "training.jsonl").exists)
    run_ranks(processes, 1, data, tmp_path)
    assert snapshot(tmp_path / "model") == snapshot(whole / "model")
    assert curve_of(tmp_path) == curve_of(whole)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_at_once_and_the_run_goes_on_from_it(whole, data, tmp_path, processes, monkeypatch):
    [process] = start_ranks(processes, 1, data, tmp_path)
    deadline = time.monotonic() + 60
    while not find_checkpoints(tmp_path / "run" / "checkpoints"):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.terminate()
    process.join(30)
    assert process.exitcode == 128 + signal.SIGTERM
    last = find_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert last.step == steps_of(tmp_path)[-1] < 12
    train_in(data, tmp_path)
    assert snapshot(tmp_path / "model") == snapshot(whole / "model")


@pytest.mark.slow
def test_means_of_several_steps_are_those_of_a_run_that_was_not_stopped(data, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "LINES", 2)
    train_in(data, tmp_path / "whole")
    assert steps_of(tmp_path / "whole") == [6, 12]
    must_stop = trainer.Trainer.must_stop
    monkeypatch.setattr(trainer.Trainer, "must_stop", lambda self: self.step == 9)
    with pytest.raises(SystemExit):
        train_in(data, tmp_path / "stopped")
    monkeypatch.setattr(trainer.Trainer, "must_stop", must_stop)
    train_in(data, tmp_path / "stopped")
    assert curve_of(tmp_path / "stopped") == curve_of(tmp_path / "whole")


@pytest.mark.slow
def test_the_curve_is_the_same_on_any_number_of_ranks(whole, data, tmp_path, processes):
    run_ranks(processes, 2, data, tmp_path / "two")
    assert curve_of(tmp_path / "two") == pytest.approx(curve_of(whole), rel=1e-4)
    # And what two ranks have begun, one finishes.
    ranks = start_ranks(processes, 2, data, tmp_path / "both")
    deadline = time.monotonic() + 60
    while len(find_checkpoints(tmp_path / "both" / "run" / "checkpoints")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    for process in ranks:
        process.kill()
        process.join(30)
    run_ranks(processes, 2, data, tmp_path / "again")
    assert snapshot(tmp_path / "again" / "model") == snapshot(tmp_path / "two" / "model")
    train_in(data, tmp_path / "both")
    assert curve_of(tmp_path / "both") == pytest.approx(curve_of(whole), rel=1e-4)


def test_micro_batches_of_any_size_give_the_same_curve(whole, data, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "token_budget", lambda model, device, shards: 100)
    train_in(data, tmp_path)
    assert curve_of(tmp_path) == pytest.approx(curve_of(whole), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 1}, "seed 0, now 1"),
        ({"steps": 13}, "recipe.schedule.steps 12, now 13"),
        ({"recipe": "esm1nv"}, "recipe"),
        ({"tokens": 700}, "recipe.phases"),
        ({"name": "other"}, "name 'small', now 'other'"),
    ],
)
def test_a_run_of_other_settings_is_refused(whole, data, changes, key):
    before = snapshot(whole)
    with pytest.raises(UserError, match=f"a run with {key}"):
        train_in(data, whole, **changes)
    assert snapshot(whole) == before


def test_a_run_on_other_data_is_refused(whole, data, tmp_path):
    make_stores(tmp_path)
    store_of(tmp_path / "train", random_sequences(150, 5))
    with pytest.raises(UserError, match=r"data\.train"):
        train_in(tmp_path, whole)


def test_folders_that_embedome_did_not_make_stay(data, tmp_path):
    for name in ("run", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
        with pytest.raises(UserError, match=f"{name}: .*embedome did not make"):
            train_in(data, tmp_path)
        (tmp_path / name / "thesis.txt").unlink()


def test_ranks_that_disagree_are_all_told_so_and_nothing_is_written(data, tmp_path, processes):
    for process in start_ranks(processes, 2, data, tmp_path, disagree_as_rank):
        process.join(120)
        assert process.exitcode == 0
    for rank in range(2):
        assert (data / f"told-{rank}").read_text() == (
            "rank 1 has other data or settings than rank 0; give all ranks the same files and settings"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["weights.safetensors", "optimisers.pt"])
@pytest.mark.slow
def test_a_full_disk_is_one_line_and_loses_nothing(whole, data, tmp_path, monkeypatch, caplog, name):
    # Files of this process alone may not be as large as that one: writers fail as on a full disk.
    last = find_checkpoints(whole / "run" / "checkpoints")[-1].path
    sizes = {path.name: path.stat().st_size for path in last.iterdir()}
    assert sizes["weights.safetensors"] < sizes["optimisers.pt"]
    save, limits = trainer.save_checkpoint, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_full_disk(folder, step, *rest):
        if step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[name] - 1000, limits[1]))
        try:
            save(folder, step, *rest)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(trainer, "save_checkpoint", save_on_full_disk)
    with pytest.raises(SystemExit) as stopped, user_errors():
        train_in(data, tmp_path)
    assert stopped.value.code == USER_ERROR_EXIT
    assert "step-00000006: cannot be written" in caplog.messages[-1]
    assert "free some space and run again, finished work is kept" in caplog.messages[-1]
    monkeypatch.undo()
    assert find_checkpoints(tmp_path / "run" / "checkpoints")[-1].step == 5
    assert not list(tmp_path.rglob("*.tmp"))
    train_in(data, tmp_path)
    assert snapshot(tmp_path / "model") == snapshot(whole / "model")


def test_a_full_disk_is_told_of_training_jsonl(tmp_path):
    # Opened only, never named to a writer that would replace it.
    with io.FileIO("/dev/full", "w") as full, TrainingLog(tmp_path, 5, writes=True) as log:
        log.cut(0)
        file, log.handle = log.handle, io.TextIOWrapper(full, write_through=True)
        with pytest.raises(OSError, match="No space left") as error:
            log.log_validation(1, {"loss": 1.0})
        assert error.value.filename == str(tmp_path / "training.jsonl")
        log.handle = file


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_val_smaller_than_a_batch_or_than_the_ranks_is_enough(tmp_path, processes, ranks):
    store_of(tmp_path / "train", random_sequences(150, 1))
    store_of(tmp_path / "val", random_sequences(1, 2), pieces=1)
    run_ranks(processes, ranks, tmp_path, tmp_path / "out", steps=2)
    summary = json.loads((tmp_path / "out" / "run" / "summary.json").read_text())
    assert 2.5 < summary["validation"]["loss"] < 4
    assert 2.5 < summary["baselines"]["unigram"] < 4


def test_a_val_without_anything_to_hide_is_refused_before_training(data, tmp_path):
    store_of(tmp_path / "val", ["MKT", "XXXXXXXXXXXXXXXX"], pieces=1)
    with pytest.raises(UserError, match=r"val: 2 held-out sequences, and none with a residue to hide; hold out more"):
        train_run(data / "train", tmp_path / "val", tmp_path / "run", tmp_path / "model", SETTINGS)
    assert not (tmp_path / "model").exists()
    assert not find_checkpoints(tmp_path / "run" / "checkpoints")


def test_gradients_are_clipped_to_a_norm_of_one(data, tmp_path, monkeypatch):
    make, forward, norms = trainer.make_optimisers, trainer.Trainer.forward, []

    def larger(self, model, batch):
        scores = forward(self, model, batch)
        return scores._replace(loss=scores.loss * 3) if self.step % 2 and model.training else scores

    def watched(model, *rest):
        optimisers = make(model, *rest)

        def watch(*_):
            squares = [parameter.grad.square().sum() for parameter in model.parameters()]
            norms.append(float(torch.stack(squares).sum().sqrt()))

        optimisers[0].register_step_pre_hook(watch)
        return optimisers

    monkeypatch.setattr(trainer, "make_optimisers", watched)
    monkeypatch.setattr(trainer.Trainer, "forward", larger)
    train_in(data, tmp_path)
    before = [line["norm"] for line in lines_of(tmp_path) if "norm" in line]
    assert max(before) > 1 > min(before)
    assert norms == pytest.approx([min(1.0, norm) for norm in before], rel=1e-4)


def test_the_share_of_the_peak_is_told(whole):
    shares = [line["peak_share"] for line in lines_of(whole) if "peak_share" in line]
    assert shares[0] is None
    assert all(0 < share < 1.5 for share in shares[1:])


def test_steps_that_are_not_finite_are_left_out_and_counted(data, tmp_path, monkeypatch):
    forward = trainer.Trainer.forward

    def spoilt(self, model, batch):
        scores = forward(self, model, batch)
        return scores._replace(loss=scores.loss * float("nan")) if self.step in (3, 4) and model.training else scores

    monkeypatch.setattr(trainer.Trainer, "forward", spoilt)
    summary = train_in(data, tmp_path)
    assert summary["skipped_steps"] == 2
    assert summary["steps"] == 12
    assert np.isfinite(curve_of(tmp_path)).all()


def test_a_run_that_has_diverged_stops(data, tmp_path, monkeypatch):
    forward = trainer.Trainer.forward

    def spoilt(self, model, batch):
        scores = forward(self, model, batch)
        return scores._replace(loss=scores.loss * float("inf")) if model.training else scores

    monkeypatch.setattr(trainer.Trainer, "forward", spoilt)
    with pytest.raises(UserError, match=r"10 steps in a row, to step 10; lower the learning rate"):
        train_in(data, tmp_path)


def test_fewer_sequences_in_a_step_than_ranks_is_an_error(data, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="a step has 1 sequences; expected as many as ranks, 3, or more"):
        run_module.check_step(1, 3)


def test_sentinels_that_do_not_suffice_are_an_error_before_anything_is_trained(data, tmp_path, monkeypatch):
    recipe = settings_module.find_recipe("ankh2-ext2")
    monkeypatch.setattr(settings_module, "find_recipe", lambda name: settings_module.replace(recipe, residues=1000))
    sizes = {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 24}
    with pytest.raises(UserError, match=r"116 sentinels; cut sequences to 582 residues"):
        train_in(data, tmp_path, recipe="ankh2-ext2", sizes=sizes)
    assert not (tmp_path / "model").exists()


def test_a_directory_of_another_shape_is_refused(data, tmp_path):
    make_untrained(tmp_path / "large", "large", "ankh-large", {**SIZES["ankh2-ext2"], "feed_forward": 32}, 5)
    with pytest.raises(UserError, match="has shape"):
        train_in(data, tmp_path, recipe="ankh2-ext2", sizes=SIZES["ankh2-ext2"], init=str(tmp_path / "large"))


@pytest.mark.slow
def test_a_model_learns_what_there_is_to_learn(tmp_path):
    # Two letters take turns, other ones in each sequence.
    pairs = [("AC", "DE", "FG", "HI", "KL", "MN", "PQ", "RS", "TV", "WY")[number % 10] * 30 for number in range(300)]
    store_of(tmp_path / "train", [pair[number % 7 :] for number, pair in enumerate(pairs)])
    store_of(tmp_path / "val", [pair[:50] for pair in pairs[:20]])
    summary = train_in(
        tmp_path,
        tmp_path / "out",
        steps=100,
        tokens=1500,
        sizes={"layers": 2, "hidden": 32, "heads": 4, "feed_forward": 64, "positions": 100},
    )
    assert summary["baselines"]["unigram"] == pytest.approx(np.log(20), abs=0.01)
    assert summary["validation"]["loss"] < 1.5
    assert summary["validation"]["accuracy"] > 0.4
