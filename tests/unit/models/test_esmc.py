"""ESM-C in the three layouts that are out there, its vocabulary, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.decoding.masked_lm import load_masked_lm
from embedome.engine.engine import Engine
from embedome.models.directory import load_model, model_dimension
from helpers.rough_encoders import (
    assert_equal_hidden,
    edit_config,
    edit_weights,
    esmc_reference,
    hidden,
    join,
    make_esmc,
    randoms,
    refusal,
    rough,
    tokens,
)
from helpers.small_run import assert_within_one_ulp
from transformers import EsmcConfig, EsmcForMaskedLM, EsmcTokenizer

# The feed-forward dimension of 160 that the fused layout does not state.
SIZES = {
    "vocab_size": 64,
    "hidden_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 512,
}
FUSED_CONFIG = {"model_type": "esmc", "d_model": 160, "n_heads": 4, "n_layers": 3, "vocab_size": 64, "pad_token_id": 1}
Weights = dict[str, torch.Tensor]


@pytest.fixture
def esmc(tmp_path: Path) -> Path:
    return make_esmc(tmp_path / "esmc")


def fuse(weights: Weights, names: dict[str, str], prefix: str, head: str) -> Weights:
    """The tensors of `EsmcForMaskedLM` in a layout of one module for a norm and the matrix after it."""
    found = {
        f"{prefix}embed.weight": weights["esmc.embed_tokens.weight"],
        f"{prefix}transformer.norm.weight": weights["esmc.norm.weight"],
    }
    for number, name in ((0, "dense"), (2, "layer_norm"), (3, "decoder")):
        found |= {f"{head}.{number}.{kind}": weights[f"lm_head.{name}.{kind}"] for kind in ("weight", "bias")}
    for layer in range(3):
        old, new = f"esmc.layers.{layer}.", f"{prefix}transformer.blocks.{layer}."
        attention, mlp = old + "self_attn.", old + "mlp."
        found |= {
            new + names["qkv"]: torch.cat([weights[f"{attention}{part}_proj.weight"] for part in "qkv"]),
            new + "attn.q_ln.weight": weights[attention + "q_norm.weight"],
            new + "attn.k_ln.weight": weights[attention + "k_norm.weight"],
            new + "attn.out_proj.weight": weights[attention + "o_proj.weight"],
            new + names["in"]: torch.cat([weights[f"{mlp}{part}_proj.weight"] for part in ("gate", "up")]),
            new + names["out"]: weights[mlp + "down_proj.weight"],
        }
        for kind in ("weight", "bias"):
            found[new + names["qkv norm"] + kind] = weights[f"{old}input_layernorm.{kind}"]
            found[new + names["mlp norm"] + kind] = weights[f"{old}post_attention_layernorm.{kind}"]
    return {name: tensor.clone() for name, tensor in found.items()}


def fused(weights: Weights) -> Weights:
    """As Transformer Engine names them, with its empty states."""
    names = {
        "qkv norm": "attn.layernorm_qkv.layer_norm_",
        "qkv": "attn.layernorm_qkv.weight",
        "mlp norm": "ffn.layer_norm_",
        "in": "ffn.fc1_weight",
        "out": "ffn.fc2_weight",
    }
    empty = torch.empty(0, dtype=torch.uint8)
    states = [
        f"esmc.transformer.blocks.0.{part}._extra_state" for part in ("attn.layernorm_qkv", "attn.out_proj", "ffn")
    ]
    return fuse(weights, names, "esmc.", "lm_head") | {name: empty.clone() for name in states}


def of_the_library(weights: Weights) -> Weights:
    """As the library esm names them."""
    names = {
        "qkv norm": "attn.layernorm_qkv.0.",
        "qkv": "attn.layernorm_qkv.1.weight",
        "mlp norm": "ffn.0.",
        "in": "ffn.1.weight",
        "out": "ffn.3.weight",
    }
    return fuse(weights, names, "", "sequence_head")


@pytest.mark.parametrize("layout", [fused, of_the_library])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_all_layouts_are_one_model(tmp_path: Path, layout: Callable[[Weights], Weights], form: str) -> None:
    model = rough(EsmcForMaskedLM, EsmcConfig(**SIZES)).eval()
    model.save_pretrained(tmp_path)
    EsmcTokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(FUSED_CONFIG))
    weights = layout(model.state_dict())
    if form == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(weights, tmp_path / "pytorch_model.bin")
    else:
        edit_weights(tmp_path, lambda found: (found.clear(), found.update(weights)))
    ours, masked = load_model(tmp_path), load_masked_lm(tmp_path)
    assert (ours.max_residues, model_dimension(tmp_path)) == (2046, 160)
    for sequence in randoms(1, [1, 17, 200]):
        ids = torch.tensor([tokens(ours, sequence)])
        with torch.inference_mode():
            assert_equal_hidden(hidden(ours, [sequence]), model.esmc(ids).last_hidden_state.numpy())
            assert_equal_hidden(masked.logits(ids).numpy(), model(ids).logits.numpy())


def test_the_longest_sequence_and_longer_ones(esmc: Path) -> None:
    model = load_model(esmc)
    assert model.max_residues == 1022
    sequences = randoms(5, [1022, 1023])
    found = Engine(model).embed(join(sequences))
    assert_within_one_ulp(
        found.vectors["mean"], np.stack([esmc_reference(esmc).mean(sequence[:1022]) for sequence in sequences])
    )
    assert found.state.tolist() == ["embedded", "truncated"]


def test_ids_are_those_of_its_tokenizer(esmc: Path) -> None:
    model, tokenizer = load_model(esmc), EsmcTokenizer()
    for text in ["M", "LAGVSERTIDPKQNFYMHWCXBUZO.-", "MJA", "JJ", "A*MK", "MK|MK", *randoms(1, [30, 100])]:
        assert tokens(model, text) == tokenizer(text).input_ids
    assert tokens(model, "M|K") == [0, 20, 31, 15, 2]


def test_branches_are_scaled_by_the_number_of_layers(tmp_path: Path) -> None:
    """Of a model of 36 layers they are not."""
    few = load_model(make_esmc(tmp_path / "few")).encoder.layers[0].mlp_out.weight
    many = load_model(make_esmc(tmp_path / "many", num_hidden_layers=36)).encoder.layers[0].mlp_out.weight
    assert few.std().item() == pytest.approx(many.std().item() * 18**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; expected 'silu'"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2; expected 4"),
        ({"head_dim": 16}, "head_dim is 16; expected 8"),
        ({"num_attention_heads": 32}, "hidden_size is 32; expected a multiple of twice num_attention_heads, 32"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters is {'rope_type': 'yarn'"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_parameters is {'rope_theta': 'x'}"),
        ({"d_model": 31, "n_layers": 2, "n_heads": 4}, "d_model is 31, but hidden_size, which means the same, is 32"),
        ({"d_model": 32, "n_layers": 2, "n_heads": 4, "mlp_bias": True}, "mlp_bias is true, but it is not known where"),
        ({"attention_bias": 1}, "attention_bias is 1; expected true, false or null"),
    ],
)
def test_what_is_not_esmc_is_refused(esmc: Path, change: dict, what: str) -> None:
    edit_config(esmc, lambda config: config.update(change))
    assert f"config.json: {what}" in refusal(esmc)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"attention_bias": True}, "layers.0.self_attn.q_proj.bias is missing"),
        ({"mlp_bias": True}, "layers.0.mlp.gate_proj.bias is missing"),
        ({"intermediate_size": 50}, "layers.0.mlp.gate_proj.weight has shape (48, 32); expected (50, 32)"),
    ],
)
def test_a_config_json_of_another_model_is_refused(esmc: Path, change: dict, what: str) -> None:
    edit_config(esmc, lambda config: config.update(change))
    assert what in refusal(esmc)


def test_biases_that_config_json_does_not_have_are_refused(tmp_path: Path) -> None:
    folder = make_esmc(tmp_path / "model", attention_bias=True)
    edit_config(folder, lambda config: config.update(attention_bias=False))
    assert "self_attn.k_proj.bias is no part of this model" in refusal(folder)
