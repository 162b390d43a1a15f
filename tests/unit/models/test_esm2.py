"""ESM-2 encoders and their vocabularies against the Hugging Face classes, and what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.engine.engine import Engine
from embedome.models.directory import load_model
from embedome.models.encoders.esm2 import Rotary, rotate
from helpers.rough_encoders import (
    ESM1B,
    ESM2,
    ESM2_TOKENS,
    FREQUENCIES,
    assert_equal_hidden,
    edit_config,
    edit_weights,
    esm2_reference,
    hidden,
    join,
    make_esm2,
    randoms,
    refusal,
    rough,
    tokens,
    write_vocab_txt,
)
from helpers.small_run import assert_within_one_ulp
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import (
    EsmConfig,
    EsmForMaskedLM,
    EsmModel,
    EsmTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.models.esm.modeling_esm import EsmRotaryEmbedding

# The encoder


def test_esm2_takes_the_residues_it_was_trained_on(esm2: Path) -> None:
    model = load_model(esm2)
    assert model.max_residues == 1022
    sequences = randoms(5, [1022, 1023, 1500])
    found = Engine(model).embed(join(sequences))
    reference = esm2_reference(esm2)
    assert_within_one_ulp(found.vectors["mean"], np.stack([reference.mean(sequence[:1022]) for sequence in sequences]))
    assert found.state.tolist() == ["embedded", "truncated", "truncated"]


def test_token_dropout_scales_by_what_was_left(tmp_path: Path) -> None:
    with_dropout = load_model(make_esm2(tmp_path / "with")).encoder
    without = load_model(make_esm2(tmp_path / "without", token_dropout=False)).encoder
    assert torch.equal(with_dropout.words.weight, without.words.weight)
    tokens = torch.tensor([[0, 5, 6, 2]])
    torch.testing.assert_close(with_dropout.embed(tokens), 0.88 * without.embed(tokens))
    sequence = ["MKTAYIAKQR"]
    difference = hidden(load_model(tmp_path / "with"), sequence) - hidden(load_model(tmp_path / "without"), sequence)
    assert np.abs(difference).max() > 0.01


@pytest.mark.parametrize("positions", [{}, ESM1B])
@pytest.mark.parametrize("dropout", [True, False])
def test_masked_tokens_are_dropped_sequence_by_sequence(tmp_path: Path, dropout: bool, positions: dict) -> None:
    folder = make_esm2(tmp_path, token_dropout=dropout, **positions)
    reference, encoder = EsmModel.from_pretrained(folder, add_pooling_layer=False).eval(), load_model(folder).encoder
    batch = torch.randint(4, 24, (5, 30), generator=torch.Generator().manual_seed(1))
    for row, masks in enumerate([0, 1, 3, 17, 29]):
        batch[row, 1 : 1 + masks] = 32
    with torch.inference_mode():
        found = encoder(batch)
        for row in range(5):
            exact = reference(batch[row : row + 1]).last_hidden_state[0]
            assert (found[row] - exact).abs().max() < 2e-5 * exact.abs().max()


def renamed_layer_norms(weights: dict) -> dict:
    """The names that older releases of transformers saved."""
    return {name.replace(".gamma", ".weight").replace(".beta", ".bias"): weights[name] for name in weights}


def frequencies_per_layer(weights: dict) -> None:
    frequencies = weights.pop(FREQUENCIES)
    for layer in range(2):
        weights[f"encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = frequencies.half()
    old = renamed_layer_norms(weights)
    weights.clear()
    weights.update(old)


def frequencies_of_the_model(weights: dict) -> None:
    weights["rotary_embeddings.inv_freq"] = 1.5 * weights.pop(FREQUENCIES)


@pytest.mark.parametrize(
    "change", [frequencies_per_layer, frequencies_of_the_model, lambda weights: weights.pop(FREQUENCIES)]
)
def test_frequencies_are_found_where_hugging_face_finds_them(esm2: Path, change: Callable[[dict], object]) -> None:
    edit_weights(esm2, change)
    reference = esm2_reference(esm2)
    model = load_model(esm2)
    assert torch.equal(model.encoder.rotary.frequencies, reference.model.rotary_embeddings.inv_freq)
    (sequence,) = randoms(1, [60])
    assert_equal_hidden(hidden(model, [sequence])[0], reference.hidden(sequence))


def test_frequencies_stay_exact_in_bfloat16(esm2: Path) -> None:
    encoder = load_model(esm2).encoder.to(torch.bfloat16)
    assert encoder.words.weight.dtype == torch.bfloat16
    assert encoder.rotary.frequencies.dtype == torch.float32
    assert torch.equal(encoder.rotary.frequencies, EsmRotaryEmbedding(EsmConfig(**ESM2)).inv_freq)


def test_esm2_saved_with_its_head(tmp_path: Path) -> None:
    rough(EsmForMaskedLM, EsmConfig(**ESM2)).save_pretrained(tmp_path)
    write_vocab_txt(tmp_path)
    assert any(name.startswith("esm.") for name in load_file(tmp_path / "model.safetensors"))
    (sequence,) = randoms(2, [50])
    assert_equal_hidden(hidden(load_model(tmp_path), [sequence])[0], esm2_reference(tmp_path).hidden(sequence))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'; expected 'rotary'"),
        ({"position_embedding_type": None}, "position_embedding_type is missing"),
        ({"emb_layer_norm_before": "yes"}, "emb_layer_norm_before is 'yes'"),
        (
            {"position_embedding_type": "absolute", "num_attention_heads": 5},
            "hidden_size is 32; expected a multiple of num_attention_heads, 5",
        ),
        ({"is_folding_model": True}, "is_folding_model is True"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"token_dropout": None}, "token_dropout is missing"),
        ({"num_attention_heads": 5}, "hidden_size is 32; expected a multiple of twice num_attention_heads, 5"),
        ({"max_position_embeddings": None}, "max_position_embeddings is missing"),
    ],
)
def test_what_is_not_esm2_is_refused(esm2: Path, change: dict, what: str) -> None:
    def edit(config: dict) -> None:
        config.update(change)
        for field, value in change.items():
            if value is None:
                del config[field]

    edit_config(esm2, edit)
    assert f"config.json: {what}" in refusal(esm2)


# Tokens


def test_esm2_ids_equal_its_tokenizer(esm2: Path) -> None:
    model, hugging_face = load_model(esm2), EsmTokenizer(str(esm2 / "vocab.txt"))
    for text in ["M", "LAGVSERTIDPKQNFYMHWCXBUZO.-", "MJA", "A*MK", *randoms(1, [30, 100])]:
        assert tokens(model, text) == hugging_face(text).input_ids
    assert tokens(model, "MK") == [0, 20, 15, 2]
    # Hugging Face makes one token of both, which loses the alignment with the residues.
    assert tokens(model, "JJ") == [0, 3, 3, 2]


def test_a_fast_tokenizer_beside_the_vocabulary_is_passed_over(esm2: Path) -> None:
    """By transformers' own class, which knows vocab.txt alone."""
    table = load_model(esm2).tokenizer.table
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"A": 0}, "A"))).save_pretrained(esm2)
    (esm2 / "tokenizer_config.json").unlink()
    assert np.array_equal(load_model(esm2).tokenizer.table, table)
    (esm2 / "vocab.txt").unlink()
    assert "tokenizer.json: transformers cannot read this" in refusal(esm2)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"<cls>\n<pad>\n<eos>\nL\nA\n", "lacks C, D, E"),
        ("\n".join(ESM2_TOKENS).replace("<cls>", "<s>").encode(), "tokenizer has 34 tokens, but the model only 33"),
        ("\n".join(ESM2_TOKENS).replace("W", "w").encode(), "lacks W;"),
        (b"<unk>\n\xff\xfe", "transformers cannot read this (UnicodeDecodeError"),
        ("\n".join([*(["x"] * 33), *ESM2_TOKENS]).encode(), "no token has id 0, but the embedding has 33 rows"),
    ],
)
def test_other_vocabularies_are_refused(esm2: Path, text: bytes, what: str) -> None:
    (esm2 / "vocab.txt").write_bytes(text)
    assert what in refusal(esm2)


def test_no_vocabulary_is_refused_with_what_there_may_be(esm2: Path) -> None:
    shutil.move(esm2 / "vocab.txt", esm2 / "vocabulary.txt")
    assert refusal(esm2).endswith("the model directory has no tokenizer.json, vocab.txt or spiece.model")


# Rotation


def rotated(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """The formula as it is published, step by step."""
    front, back = x.chunk(2, -1)
    cosines, sines = (torch.cat([each, each], -1) for each in (cosines, sines))
    return (x.float() * cosines + torch.cat([-back, front], -1).float() * sines).to(x.dtype)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rotation_is_that_of_the_formula(dtype: torch.dtype) -> None:
    shapes = [torch.Size([3, 40]), torch.Size([1, 700]), torch.Size([5, 1])]
    cosines, sines = Rotary(16)(shapes, torch.device("cpu"))
    positions = torch.cat([torch.arange(length).repeat(count) for count, length in shapes])
    angles = positions[:, None] * Rotary(16).frequencies
    assert torch.equal(cosines[:, 0, 0], angles.cos())
    assert torch.equal(sines[:, 0, 0], angles.sin())
    x = torch.randn(len(positions), 2, 4, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = rotated(x.double(), cosines.double(), sines.double())
    found, expected = rotate(x, cosines, sines), rotated(x, cosines, sines)
    assert found.dtype == dtype
    if dtype == torch.float32:
        assert (found - expected).abs().max() < 1e-6
    else:
        # Products and sums in one rounding instead of two: hardly ever another narrow number, and then the nearer one.
        assert (found != expected).float().mean() < 1e-3
    assert (found.double() - exact).abs().sum() <= (expected.double() - exact).abs().sum() * (1 + 1e-6)
