"""What a recipe takes: by hand for ESM-1nv, and as counted or kept by what is planned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from embedome.training.alphabet import Alphabet
from embedome.training.forecast import Devices, counted_operations, plan_pretraining, sequence_operations, state_values
from embedome.training.memory import fitting_tokens, gathered_bytes, token_bytes
from embedome.training.optimisers import make_optimisers, set_rate
from embedome.training.recipes import RECIPES
from helpers.training_models import SMALL, small_model

ONE = Devices(1, peak=1e15, share=0.5, memory=80e9)


def plan(recipe, residues, sequences, devices=ONE):
    return plan_pretraining(recipe, np.array([residues]), np.array([sequences]), devices)


def test_the_card_of_esm1nv_by_hand():
    found = plan(RECIPES["esm1nv"], 510, 1000, Devices(8, 1e15, 0.5, 80e9))
    sequences = 176 * 370 * 349_500 + 144 * 370 * (957_610 - 349_500)
    assert found["sequences"] == sequences
    assert found["epochs"] == sequences / 1000
    assert found["tokens"] == 512 * sequences
    # Multiplications of a sequence: of 512 tokens 76.5 are hidden, and rows of queries are padded to about 95.
    d, t, hidden, queries = 768, 512, 0.15 * 510, 95
    layer = t * 12 * d**2 + 2 * t**2 * d
    last = t * 2 * d**2 + hidden * 10 * d**2 + 2 * queries * t * d
    head = hidden * (d**2 + 128 * d)
    operations = 3 * 2 * (5 * layer + last + head) * sequences
    assert found["operations"] == pytest.approx(operations, rel=0.003)
    assert found["device_hours"] == pytest.approx(operations / 0.5e15 / 3600, rel=0.003)
    assert found["wall_clock_hours"] == found["device_hours"] / 8
    weights = 4 * 43_612_544
    memory = found["bytes_of_device"]
    assert (memory["weights"], memory["gradients"], memory["optimiser"]) == (weights, weights, 2 * weights)
    assert found["micro_batch_tokens"] == 65536
    assert found["bytes_on_disk"] == {
        "data": 510 * 1000 + 8 * 1001,
        # Weights of 47, and two to go on from, with the optimiser's state.
        "checkpoints": 49 * weights + 2 * 2 * weights,
        "model": weights,
    }


def test_a_model_that_is_split_by_hand():
    devices = Devices(8, 1e15, 0.5, 80e9)
    whole, split = (plan(RECIPES["ankh2-ext2"], 511, 1000, replace(devices, shard=shard)) for shard in (False, True))
    # Of a decoder's layer: queries, keys, values and output, twice, of 16 heads of 64; a gated feed-forward; norms.
    layer = 2 * 4 * 1536 * 16 * 64 + 3 * 1536 * 3840 + 3 * 1536
    # Two tables, distances of two times 64 buckets and 16 heads, two norms.
    rest = 2 * 144 * 1536 + 2 * 64 * 16 + 2 * 1536
    memory = split["bytes_of_device"]
    assert memory["weights"] == memory["gradients"] == 4 * 1_878_705_152 // 8
    assert memory["optimiser"] == -(-whole["bytes_of_device"]["optimiser"] // 8)
    assert memory["gathered"] == 4 * 4 * (layer + rest)
    # Of a token: the inputs of 72 layers in float32, and all of one.
    assert memory["micro_batch"] == split["micro_batch_tokens"] * (68 + 4 * 72) * 1536
    assert split["micro_batch_tokens"] > 8 * whole["micro_batch_tokens"]
    assert {key: split[key] for key in ("tokens", "operations")} == {
        key: whole[key] for key in ("tokens", "operations")
    }


def test_windows_and_tokens_of_a_step():
    found = plan(RECIPES["demo"], 300, 50)
    assert found["sequences"] == 707 * 16 + 236 * 7
    assert found["tokens"] == 707 * 16 * 128 + 236 * 7 * 302
    assert found["micro_batch_tokens"] == 7 * 302


@pytest.mark.slow
def test_longer_sequences_are_cut():
    one, other = (plan(RECIPES["prott5nv"], residues, 10) for residues in (510, 9000))
    assert one["operations"] == other["operations"]
    assert one["tokens"] == other["tokens"] == 510 * 224 * 12 * 970_189
    assert other["bytes_on_disk"]["data"] == 10 * 9000 + 88


@pytest.mark.parametrize("name", ["esm1nv", "prott5nv", "ankh2-ext2"])
def test_operations_of_any_length_are_those_counted(name):
    recipe = replace(RECIPES[name], sizes=SMALL)
    model, alphabet = small_model(name).eval().to("meta"), Alphabet.of_model(name)
    per_token, per_pair = sequence_operations(model, recipe, alphabet, 64)
    for tokens in (20, 48, 60):
        # The number of hidden residues is rounded.
        expected = pytest.approx(counted_operations(model, recipe, alphabet, tokens), rel=0.05)
        assert per_token * tokens + per_pair * tokens**2 == expected


@pytest.mark.parametrize("name", ["esm1nv", "ankh2-ext2", "demo"])
def test_an_optimiser_keeps_as_many_values(name):
    recipe = RECIPES[name]
    model = small_model(recipe.model)
    optimisers = make_optimisers(model, recipe.optimiser)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_rate(optimisers, 1e-3)
    kept = 0
    for optimiser in optimisers:
        optimiser.step()
        states = (each for state in optimiser.state.values() for each in state.values())
        kept += sum(each.numel() for each in states if isinstance(each, torch.Tensor) and each.ndim)
    assert state_values(model, recipe.optimiser) == kept


def test_a_micro_batch_takes_half_of_what_weights_leave():
    model = small_model("esm1nv")
    weights = 12 * sum(parameter.numel() for parameter in model.parameters())
    assert fitting_tokens(model, weights + 2 * 5000 * token_bytes(model)) == 5000
    assert (fitting_tokens(model, 0), fitting_tokens(model, 1e15)) == (512, 65536)
    # A layer and dimension of a token: 68 bytes.
    assert token_bytes(model) == 68 * 2 * 64
    left = weights / 4 + gathered_bytes(model, 4) + 2 * 5000 * token_bytes(model, 4)
    assert fitting_tokens(model, left, 4) == 5000
