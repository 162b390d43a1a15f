"""Decoder features of T5 models against `transformers.T5Model` with the same tokens on both sides."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.engine.engine import Engine
from embedome.engine.windows import Sequences
from embedome.models.directory import load_model
from helpers.small_run import assert_within_one_ulp, random_sequence, rough_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, T5Model

SIZES = {"layers": 3, "decoder_layers": 2, "hidden": 32, "heads": 4, "feed_forward": 48}
NAMES = ["ankh2-ext2", "ankh-base", "prott5-xl"]


class Reference:
    """One sequence at a time, in float32."""

    def __init__(self, folder: Path) -> None:
        self.model = T5Model.from_pretrained(folder).float().eval()
        self.spaced = "▁A" in AutoTokenizer.from_pretrained(folder).get_vocab()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def states(self, sequence: str) -> list[np.ndarray]:
        """Hidden states of the decoder by layer, the last after the final norm, float32 [L + 1, D]."""
        names = [*(("▁" if self.spaced else "") + residue for residue in sequence), "</s>"]
        tokens = torch.tensor([self.tokenizer.convert_tokens_to_ids(names)])
        found = self.model(input_ids=tokens, decoder_input_ids=tokens, output_hidden_states=True)
        return [state[0].numpy() for state in found.decoder_hidden_states]


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = rough_model(tmp_path_factory.mktemp("decoder") / "model", 2, request.param, SIZES)
    # A bias that matters: as large as the scores.
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if "relative_attention_bias" in name:
            weights[name] += torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(len(name)))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.slow
def test_hidden_states_equal_hugging_face(folder: Path, batch: int) -> None:
    model, reference = load_model(folder, "decoder"), Reference(folder)
    for length in [1, 2, 3, *range(4 + batch, 81, 11), 127, 128, 129, 200]:
        rng = random.Random(100 * batch + length)
        sequences = [random_sequence(rng, length) for _ in range(batch)]
        residues = np.array([list(sequence.encode()) for sequence in sequences], np.uint8)
        with torch.inference_mode():
            found = model.encoder(torch.from_numpy(model.tokenizer.tokens(residues))).numpy()
        for mine, sequence in zip(found, sequences, strict=True):
            exact = reference.states(sequence)[-1]
            assert np.abs(mine - exact).max() < 2e-5 * np.abs(exact).max()


@pytest.mark.parametrize("layer", [0, 1, 2, -1])
@pytest.mark.slow
def test_vectors_of_the_decoders_layers_drop_the_end(folder: Path, layer: int) -> None:
    rng = random.Random(5)
    sequences = [random_sequence(rng, length) for length in (1, 7, 30, 7)]
    engine = Engine(load_model(folder, "decoder"), layer=layer, per_residue=True)
    found = engine.embed(Sequences.join([sequence.encode() for sequence in sequences]))
    states = [Reference(folder).states(sequence)[layer][:-1].astype(np.float64) for sequence in sequences]
    assert_within_one_ulp(found.vectors["mean"], np.stack([state.mean(0) for state in states]))
    for mine, state in zip(found.residues, states, strict=True):
        assert mine.shape == (len(state), 32)
        assert_within_one_ulp(mine, state)


def test_encoder_features_drop_the_end_too(folder: Path) -> None:
    model = T5Model.from_pretrained(folder).encoder.eval()
    tokens = torch.from_numpy(load_model(folder).tokenizer.tokens(np.frombuffer(b"MKTAYIAKQR", np.uint8)[None]))
    with torch.inference_mode():
        exact = model(tokens).last_hidden_state[0].numpy()
    assert exact.shape == (11, 32)
    found = Engine(load_model(folder), per_residue=True).embed(Sequences.join([b"MKTAYIAKQR"]))
    assert_within_one_ulp(found.residues[0], exact[:-1].astype(np.float64))
    assert_within_one_ulp(found.vectors["mean"], exact[:-1].astype(np.float64).mean(0)[None])


def test_layers_are_counted_in_the_decoder(folder: Path) -> None:
    with pytest.raises(UserError, match=r"embed\.layer is 3; expected 0 \(the embedding\) to 2"):
        Engine(load_model(folder, "decoder"), layer=3)


def test_a_checkpoint_of_the_encoder_alone_has_no_decoder_features(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    half = {name: tensor for name, tensor in weights.items() if not name.startswith("decoder.")}
    save_file(half, tmp_path / "model.safetensors", {"format": "pt"})
    load_model(tmp_path)
    with pytest.raises(UserError, match=r"decoder\S* is missing"):
        load_model(tmp_path, "decoder")


def test_esm_has_no_decoder_features(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'decoder', which megatron-bert does not have"):
        load_model(rough_model(tmp_path / "model"), "decoder")


def test_the_decoder_has_as_many_layers_as_config_json_says(folder: Path) -> None:
    assert json.loads((folder / "config.json").read_text())["num_decoder_layers"] == 2
    assert load_model(folder, "decoder").encoder.n_layers == 2
