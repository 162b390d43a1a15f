"""Models that are split over their ranks: the bytes of those that are not, and gone on with by any number of ranks."""

import json
import random

import pytest
import torch
from embedome.common.process import TERMINATED_EXIT
from embedome.training.average import average_run
from embedome.training.checkpoints import find_checkpoints
from embedome.training.device_batch import to_device
from embedome.training.sharding import recompute
from helpers.sharded_runs import STEPS, changes_of, count_as_rank, cut_as_rank, fill_disk_as_rank, stop_as_rank
from helpers.small_run import snapshot
from helpers.stores import random_sequences, store_of
from helpers.training_models import CPU, corrupted, small_model
from helpers.training_runs import curve_of, lines_of, make_stores, run_ranks, start_ranks, train_in
from safetensors.torch import load_file

NAMES = ("esm1nv", "prott5nv", "ankh2-ext2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_stores(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def split(data, tmp_path_factory, processes):
    """A run of `demo` on two ranks, split, that was not disturbed."""
    folder = tmp_path_factory.mktemp("split")
    run_ranks(processes, 2, data, folder, **changes_of("demo"), shard=True)
    return folder


def weights_of(folder):
    return load_file(folder / "model" / "model.safetensors")


def largest_difference(one, other):
    """Of any weight, in parts of the largest of its tensor."""
    assert set(one) == set(other)
    return max(float((one[name] - other[name]).abs().max() / one[name].abs().max().clamp(min=1e-3)) for name in one)


@pytest.mark.parametrize("name", NAMES)
def test_layers_that_are_computed_again_have_the_same_gradients(name):
    gradients, losses = [], []
    for again in (False, True):
        model, calls = small_model(name, dropout=0.1).train(), []
        for layer in model.layers():
            layer.attention_norm.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        if again:
            recompute(model)
        torch.manual_seed(5)
        scores = model(to_device(corrupted(name), CPU))
        scores.loss.backward()
        assert len(calls) == (1 + again) * len(list(model.layers()))
        losses.append(scores.loss)
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert torch.equal(*losses)
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["esm1nv", "prott5nv", "demo"])
def test_a_split_model_is_trained_to_the_bytes_of_one_that_is_not(data, tmp_path, processes, recipe, request):
    run_ranks(processes, 2, data, tmp_path / "whole", **changes_of(recipe))
    if recipe == "demo":
        folder = request.getfixturevalue("split")
    else:
        run_ranks(processes, 2, data, folder := tmp_path / "split", **changes_of(recipe), shard=True)
    assert snapshot(folder / "model") == snapshot(tmp_path / "whole" / "model")
    assert curve_of(folder) == curve_of(tmp_path / "whole")
    # Gradients were clipped, by the norm over all parts.
    norms = [[line["norm"] for line in lines_of(each) if "norm" in line] for each in (folder, tmp_path / "whole")]
    assert norms[0] == norms[1]
    assert max(norms[0]) > 1
    assert all((each.path / "weights").is_dir() for each in find_checkpoints(folder / "run" / "checkpoints"))


@pytest.mark.slow
def test_gradients_of_several_micro_batches_add_up(data, tmp_path, processes):
    for shard in (False, True):
        changes = {**changes_of("esm1nv"), "shard": shard}
        for process in start_ranks(processes, 2, data, tmp_path / str(shard), cut_as_rank, **changes):
            process.join(120)
            assert process.exitcode == 0
    # Averaged after each micro-batch, or once in the end.
    assert curve_of(tmp_path / "True") == pytest.approx(curve_of(tmp_path / "False"), rel=1e-5)
    norms = [[line["norm"] for line in lines_of(tmp_path / str(each)) if "norm" in line] for each in (True, False)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.slow
def test_adafactor_s_means_are_those_of_whole_tensors(data, tmp_path, processes):
    for shard in (False, True):
        run_ranks(processes, 2, data, tmp_path / str(shard), **changes_of("ankh2-ext2"), shard=shard)
    one, other = (weights_of(tmp_path / str(shard)) for shard in (False, True))
    assert largest_difference(one, other) < 1e-5
    assert curve_of(tmp_path / "True") == pytest.approx(curve_of(tmp_path / "False"), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "first", "then"), [("demo", 2, 1), ("demo", 1, 2), ("ankh2-ext2", 2, 1), ("ankh2-ext2", 2, 3)]
)
def test_what_some_ranks_have_begun_others_finish(data, tmp_path, processes, recipe, first, then):
    changes = {**changes_of(recipe), "shard": True}
    for process in start_ranks(processes, first, data, tmp_path / "both", stop_as_rank, **changes):
        process.join(120)
        assert process.exitcode == TERMINATED_EXIT
    assert find_checkpoints(tmp_path / "both" / "run" / "checkpoints")[-1].step == 5
    run_ranks(processes, then, data, tmp_path / "both", **changes)
    train_in(data, tmp_path / "whole", **changes)
    one, other = weights_of(tmp_path / "both"), weights_of(tmp_path / "whole")
    # The gradients of some biases are rounding and nothing else.
    matrices = [name for name, tensor in one.items() if tensor.ndim == 2]
    assert largest_difference(*({name: each[name] for name in matrices} for each in (one, other))) < 1e-4
    assert curve_of(tmp_path / "both") == pytest.approx(curve_of(tmp_path / "whole"), rel=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_split_or_not(split, data, tmp_path, processes):
    for turn, shard in enumerate((True, False)):
        folder = tmp_path / str(turn)
        for process in start_ranks(processes, 2, data, folder, stop_as_rank, **changes_of("demo"), shard=shard):
            process.join(120)
        run_ranks(processes, 2, data, folder, **changes_of("demo"), shard=not shard)
        assert snapshot(folder / "model") == snapshot(split / "model")


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(3))
def test_a_split_run_killed_at_any_moment_ends_with_the_same_bytes(split, data, tmp_path, processes, turn):
    chance = random.Random(turn)
    changes = {**changes_of("demo"), "shard": True}
    ranks = start_ranks(processes, 2, data, tmp_path, **changes)
    # Most of the time of so small a run checkpoints are written.
    processes.kill(ranks[turn % 2], chance.uniform(0, 2.0), (tmp_path / "run" / "training.jsonl").exists)
    for process in ranks:
        process.kill()
        process.join(60)
    run_ranks(processes, 2, data, tmp_path, **changes)
    assert snapshot(tmp_path / "model") == snapshot(split / "model")
    assert curve_of(tmp_path) == curve_of(split)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_each_rank_keeps_its_part_of_weights_gradients_and_optimiser(data, tmp_path, processes):
    for process in start_ranks(processes, 2, data, tmp_path, count_as_rank, **changes_of("esm1nv"), shard=True):
        process.join(120)
        assert process.exitcode == 0
    kept = [json.loads((tmp_path / f"kept-{rank}.json").read_text()) for rank in range(2)]
    whole = {name: each.numel() for name, each in small_model("esm1nv").named_parameters()}
    assert set(kept[0]["weights"]) == set(whole)
    size = sum(kept[0]["weights"].values()) + sum(kept[1]["weights"].values())
    for rank in range(2):
        assert sum(kept[rank]["weights"].values()) <= 0.51 * size
        assert kept[rank]["gradients"] == [*kept[rank]["weights"].values()]
        steps = len(kept[rank]["weights"])
        # While a layer is computed, the other one is in parts.
        assert set(kept[rank]["whole"]) == {1}
        assert sum(kept[rank]["states"]) == 2 * sum(kept[rank]["weights"].values()) + steps


@pytest.mark.slow
def test_no_room_for_one_rank_is_one_line_for_all_and_loses_nothing(split, data, tmp_path, processes):
    changes = {**changes_of("demo"), "shard": True}
    for process in start_ranks(processes, 2, data, tmp_path, fill_disk_as_rank, **changes):
        process.join(120)
        assert process.exitcode == 0
    for rank in range(2):
        told = (tmp_path / f"told-{rank}").read_text()
        assert "step-00000004: cannot be written (" in told
        assert "free some space and run again, finished work is kept" in told
        assert "\n" not in told
    assert find_checkpoints(tmp_path / "run" / "checkpoints")[-1].step == 3
    assert not list(tmp_path.rglob("*.tmp"))
    run_ranks(processes, 2, data, tmp_path, **changes)
    assert snapshot(tmp_path / "model") == snapshot(split / "model")


@pytest.mark.slow
def test_a_val_smaller_than_the_ranks_is_enough_for_a_split_model(tmp_path, processes):
    store_of(tmp_path / "train", random_sequences(150, 1))
    store_of(tmp_path / "val", random_sequences(1, 2), pieces=1)
    for shard in (False, True):
        run_ranks(processes, 2, tmp_path, tmp_path / str(shard), **{**changes_of("demo"), "steps": 2}, shard=shard)
    assert curve_of(tmp_path / "True") == curve_of(tmp_path / "False")


@pytest.mark.slow
def test_one_process_averages_what_two_have_written(split, tmp_path):
    assert average_run(split / "run", tmp_path / "mean" / "model", 2) == [STEPS - 1, STEPS]
    parts = [each.weights() for each in find_checkpoints(split / "run" / "checkpoints")]
    average_run(split / "run", tmp_path / "last" / "model", 1)
    mean, last, other = (weights_of(folder) for folder in (tmp_path / "mean", tmp_path / "last", split))
    assert all(torch.equal(last[name], other[name]) for name in other)
    name, table = "bert.embeddings.word_embeddings.weight", "encoder.words.weight"
    assert torch.equal(mean[name], ((parts[0][table].double() + parts[1][table]) / 2).float())
    assert not torch.equal(mean[name], last[name])
