"""What holds for many encoders alike: they give what the Hugging Face classes give, one sequence at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.embedding.cost import estimate_cost
from embedome.engine.engine import Engine
from embedome.models.directory import Model, load_model
from helpers.rough_encoders import (
    ESM1B,
    ESM1V,
    FREQUENCIES,
    Reference,
    assert_equal_hidden,
    bert_reference,
    esm2_reference,
    esmc_reference,
    hidden,
    join,
    make_bert,
    make_esm2,
    make_esmc,
    make_roberta,
    make_t5,
    randoms,
    refusal,
    roberta_reference,
    t5_reference,
)
from helpers.small_run import assert_within_one_ulp
from safetensors.torch import load_file, save_file

KINDS: dict[str, tuple[Callable[..., Path], Callable[[Path], Reference], dict]] = {
    "esm2": (make_esm2, esm2_reference, {}),
    "esm2, no token dropout": (make_esm2, esm2_reference, {"token_dropout": False}),
    "esm2, another theta": (make_esm2, esm2_reference, {"rope_theta": 500.0}),
    "esm1v": (make_esm2, esm2_reference, ESM1V),
    "esm1b": (make_esm2, esm2_reference, ESM1B),
    "esm1b, no token dropout": (make_esm2, esm2_reference, {**ESM1B, "token_dropout": False}),
    "bert": (make_bert, bert_reference, {}),
    "bert, gelu_new": (make_bert, bert_reference, {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
    "roberta": (make_roberta, roberta_reference, {}),
    "esmc": (make_esmc, esmc_reference, {}),
    "esmc, biases, another theta": (
        make_esmc,
        esmc_reference,
        {"attention_bias": True, "mlp_bias": True, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    ),
    "t5 relu": (make_t5, t5_reference, {}),
    "t5 gated-gelu": (make_t5, t5_reference, {"feed_forward_proj": "gated-gelu"}),
    "t5 gated-silu 64": (
        make_t5,
        t5_reference,
        {"feed_forward_proj": "gated-silu", "relative_attention_num_buckets": 64},
    ),
    "t5 gelu 20/50": (
        make_t5,
        t5_reference,
        {
            "feed_forward_proj": "gelu",
            "relative_attention_num_buckets": 20,
            "relative_attention_max_distance": 50,
            "layer_norm_epsilon": 1e-3,
        },
    ),
}


@dataclass(frozen=True)
class Pair:
    folder: Path
    model: Model
    reference: Reference


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    make, reference, changes = KINDS[request.param]
    folder = make(tmp_path_factory.mktemp("encoders") / "model", **changes)
    return Pair(folder, load_model(folder), reference(folder))


# Hidden states and vectors


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_hidden_states_equal_hugging_face(pair: Pair, batch: int) -> None:
    for length in [1, 2, 3, *range(4 + batch, 81, 7), 80]:
        sequences = randoms(100 * batch + length, [length] * batch)
        for mine, sequence in zip(hidden(pair.model, sequences), sequences, strict=True):
            assert_equal_hidden(mine, pair.reference.hidden(sequence))


@pytest.mark.parametrize("length", [127, 128, 129, 300, 511, 767, 1022])
@pytest.mark.slow
def test_hidden_states_beyond_the_largest_distance(pair: Pair, length: int) -> None:
    sequences = randoms(length, [length] * 2)
    for mine, sequence in zip(hidden(pair.model, sequences), sequences, strict=True):
        assert_equal_hidden(mine, pair.reference.hidden(sequence))


def test_groups_of_several_lengths_at_once(pair: Pair) -> None:
    groups = [randoms(number, [length] * batch) for number, (batch, length) in enumerate([(1, 300), (3, 80), (2, 7)])]
    residues = [np.array([list(each.encode()) for each in group], np.uint8) for group in groups]
    with torch.inference_mode():
        found = pair.model.encoder.stream([torch.from_numpy(pair.model.tokenizer.tokens(each)) for each in residues])
    for group, states in zip(groups, found, strict=True):
        for sequence, mine in zip(group, states.numpy(), strict=True):
            assert_equal_hidden(mine, pair.reference.hidden(sequence))


@pytest.mark.parametrize("budget", [1, 150, 4096])
def test_vectors_equal_the_mean_over_residues(pair: Pair, budget: int) -> None:
    sequences = randoms(7, [*range(1, 40, 3), 5, 5, 5, 33, 80, 33, 150, 1])
    engine = Engine(load_model(pair.folder))
    engine.token_budget = budget
    found = engine.embed(join(sequences))
    assert_within_one_ulp(found.vectors["mean"], np.stack([pair.reference.mean(sequence) for sequence in sequences]))
    assert found.used.tolist() == [len(sequence) for sequence in sequences]
    assert set(found.state.tolist()) == {"embedded"}
    assert not found.skipped.any()


def test_bfloat16_is_near_float32(pair: Pair) -> None:
    sequences = randoms(13, [1, 30, 80, 900])
    exact = np.stack([pair.reference.mean(sequence) for sequence in sequences])
    found = Engine(load_model(pair.folder), dtype="bfloat16").embed(join(sequences)).vectors["mean"].astype(np.float64)
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert 1e-4 < error < 0.1  # another precision, not another result


def test_gradients_do_not_mix_with_inference(pair: Pair) -> None:
    (sequence,) = randoms(3, [20])
    expected = hidden(pair.model, [sequence])
    tokens = torch.from_numpy(pair.model.tokenizer.tokens(np.frombuffer(sequence.encode(), np.uint8)[None]))
    found = pair.model.encoder(tokens)
    found.sum().backward()
    assert_equal_hidden(found.detach().numpy(), expected)
    pair.model.encoder.zero_grad()


def test_predicted_cost_grows_with_length(pair: Pair) -> None:
    costs = estimate_cost(pair.model.encoder, pair.model.max_residues, 5e10).picoseconds(
        np.array([10, 100, 1000, 5000])
    )
    assert (np.diff(costs) > 0).all()


# Refusals


@pytest.mark.parametrize("kind", ["esm2", "esm1b", "bert", "roberta", "esmc", "t5 relu"])
@pytest.mark.slow
def test_every_tensor_is_needed_in_its_shape(tmp_path: Path, kind: str) -> None:
    make, _, changes = KINDS[kind]
    folder = make(tmp_path / "model", **changes)
    path = folder / "model.safetensors"
    whole = load_file(path)
    unused = [name for name in whole if "contact_head" in name]
    for name in whole.keys() - unused - {FREQUENCIES}:
        save_file({other: tensor for other, tensor in whole.items() if other != name}, path)
        told = name.replace(".gamma", ".weight").replace(".beta", ".bias").replace("shared", "encoder.embed_tokens")
        assert f"{told} is missing" in refusal(folder)
    for name in whole.keys() - unused:
        save_file({**whole, name: torch.cat([whole[name], whole[name]])}, path)
        assert "shape" in refusal(folder)
        broken = whole[name].clone()
        broken.view(-1)[-1] = torch.nan
        save_file({**whole, name: broken}, path)
        assert "holds NaN or infinity" in refusal(folder)
