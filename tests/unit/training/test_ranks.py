"""On which device a process trains."""

import pytest
import torch
from embedome.training.ranks import join_ranks


def test_one_process_trains_on_the_gpu_that_it_has_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may hold the first one."""
    claimed = torch.device("cuda", 1)
    monkeypatch.setattr("embedome.training.ranks.use_device", lambda device: claimed)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    with join_ranks("cuda") as ranks:
        assert ranks.device == claimed
