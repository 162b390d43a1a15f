"""Hidden states of residues in the host's memory: how much they take, and how they are rounded."""

import warnings

import numpy as np
import pytest
import torch
from embedome.engine import pooling
from embedome.engine.batch_layout import lay_out
from embedome.engine.pooling import ResidueStates, narrow
from embedome.engine.windows import LongPolicy, Sequences
from embedome.models.tokenizer import STANDARD, ResidueTokenizer


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 50])
@pytest.mark.parametrize("dimension", [1, 5])
def test_rounded_in_place_as_torch_rounds(monkeypatch: pytest.MonkeyPatch, rows: int, dimension: int) -> None:
    monkeypatch.setattr(pooling, "NARROWED_ROWS", 8)
    states = np.random.default_rng(rows).normal(scale=40_000, size=(rows, dimension)).astype(np.float32)
    expected = torch.from_numpy(states.copy()).half().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = narrow(states)
    assert found.dtype == np.float16
    assert np.array_equal(found, expected)
    assert not rows or np.shares_memory(found, states)


@pytest.mark.parametrize(("policy", "size"), [("truncate", 2), ("window", 4)])
def test_bytes_of_a_number(policy: str, size: int) -> None:
    """What `parts.most_residues` counts with."""
    tokenizer = ResidueTokenizer({name: number for number, name in enumerate(STANDARD)}, "A", None, None)
    sequences = Sequences.join([b"ACDEFGHIKL" * 3, b"MNPQRSTVWY"])
    long = LongPolicy(policy, 4 if policy == "window" else 0, 20)
    states = ResidueStates(lay_out(sequences, tokenizer, long, 20), 24)
    assert states.states.nbytes == {"truncate": 30, "window": 40}[policy] * 24 * size
    assert sum(each.nbytes for each in states.finish()) == {"truncate": 30, "window": 40}[policy] * 24 * 2
