"""Checkpoints: the mean of three, which are kept, and damage told."""

import pytest
import torch
from embedome.common.errors import UserError
from embedome.training.checkpoints import average, find_checkpoints, last_checkpoint, save_checkpoint
from torch import nn


def save(folder, step, value, keep=3, every=10, shape=(2, 3)):
    model = nn.Linear(shape[1], shape[0])
    nn.init.constant_(model.weight, value)
    nn.init.constant_(model.bias, -value)
    save_checkpoint(folder, step, model, [torch.optim.AdamW(model.parameters())], {"tokens": 7}, keep, every)


def test_the_average_is_the_arithmetic_mean_of_each_tensor(tmp_path):
    for step, value in ((10, 1.0), (20, 2.0), (30, 6.0)):
        save(tmp_path, step, value)
    found = average(find_checkpoints(tmp_path))
    assert torch.equal(found["weight"], torch.full((2, 3), 3.0))
    assert torch.equal(found["bias"], torch.full((2,), -3.0))
    assert found["weight"].dtype == torch.float32


def test_the_last_ones_are_kept_and_two_of_them_can_be_gone_on_with(tmp_path):
    for step in (10, 14, 20, 25, 30, 40, 47):
        save(tmp_path, step, 1.0)
    found = find_checkpoints(tmp_path)
    # The last three whose step is a multiple of ten, 47 as it is the last one.
    assert [each.step for each in found] == [30, 40, 47]
    assert [each.can_resume for each in found] == [False, True, True]
    assert last_checkpoint(tmp_path) == found[-1]
    assert found[-1].state() == {"step": 47, "tokens": 7}


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / ".step-00000010.0123456789ab.tmp").mkdir(parents=True)
    (tmp_path / ".step-00000010.0123456789ab.tmp" / "weights.safetensors").write_bytes(b"half")
    assert find_checkpoints(tmp_path) == []
    save(tmp_path, 10, 1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


@pytest.mark.parametrize("name", ["weights.safetensors", "optimisers.pt"])
def test_a_damaged_checkpoint_is_told(tmp_path, name):
    save(tmp_path, 10, 1.0)
    path = tmp_path / "step-00000010" / name
    path.write_bytes(path.read_bytes()[:100])
    model = nn.Linear(3, 2)
    with pytest.raises(UserError, match=f"{name}: cannot be read .*; delete the folder and run again"):
        last_checkpoint(tmp_path).restore(model, [torch.optim.AdamW(model.parameters())])


def test_checkpoints_of_other_shapes_have_no_mean(tmp_path):
    save(tmp_path, 10, 1.0)
    save(tmp_path, 20, 1.0, shape=(2, 4))
    with pytest.raises(UserError, match=r"step-00000020: its tensors are not those of .*step-00000010"):
        average(find_checkpoints(tmp_path))
    with pytest.raises(UserError, match="no checkpoint to average"):
        average([])
