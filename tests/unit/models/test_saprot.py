"""SaProt on sequences alone: each residue is a pair with a structure state that is not known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.decoding.masked_lm import load_masked_lm
from embedome.models.directory import load_model, model_identity
from embedome.models.vocabularies import VOCABULARIES, save_tokenizer
from helpers.rough_encoders import ESM2, assert_equal_hidden, hidden, randoms, rough, tokens
from transformers import EsmConfig, EsmForMaskedLM, EsmTokenizer

STANDARD = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the files that a release has: vocab.txt, and a tokenizer_config.json that names ESM's class."""
    path = tmp_path_factory.mktemp("saprot")
    rough(EsmForMaskedLM, EsmConfig(**{**ESM2, "vocab_size": 446, "mask_token_id": 4})).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(VOCABULARIES["saprot"].tokens))
    return path


@pytest.fixture(scope="module")
def reference(folder: Path) -> EsmForMaskedLM:
    return EsmForMaskedLM.from_pretrained(folder).float().eval()


def pairs(sequence: str) -> str:
    return "".join(f"{residue}#" for residue in sequence)


def test_ids_are_those_of_pairs_without_a_structure(folder: Path) -> None:
    model, tokenizer = load_model(folder), EsmTokenizer(str(folder / "vocab.txt"))
    assert len(tokenizer) == 446
    for text in ["M", STANDARD, "MXA", "MJK", "AUA", *randoms(1, [30, 100])]:
        assert tokens(model, text) == tokenizer(pairs(text)).input_ids
    assert tokens(model, "AX") == [0, 25, 3, 2]
    about = {"between": "", "as_x": "", "first": "<cls>", "last": "<eos>", "after": "#"}
    assert model_identity(folder)["preprocessing"] == about


def test_a_written_vocabulary_is_read_as_a_released_one(folder: Path, tmp_path: Path) -> None:
    save_tokenizer(tmp_path, "saprot", None)
    written = EsmTokenizer.from_pretrained(tmp_path)
    assert written.get_vocab() == EsmTokenizer(str(folder / "vocab.txt")).get_vocab()


def test_hidden_states_equal_hugging_face(folder: Path, reference: EsmForMaskedLM) -> None:
    model, tokenizer = load_model(folder), EsmTokenizer(str(folder / "vocab.txt"))
    for sequence in randoms(2, [1, 2, 40, 1022]):
        ids = tokenizer(pairs(sequence), return_tensors="pt").input_ids
        with torch.inference_mode():
            assert_equal_hidden(hidden(model, [sequence]), reference.esm(ids).last_hidden_state.numpy())


def test_a_masked_residue_has_the_probability_of_all_its_pairs(folder: Path, reference: EsmForMaskedLM) -> None:
    tokenizer = EsmTokenizer(str(folder / "vocab.txt"))
    vocabulary, (sequence,) = tokenizer.get_vocab(), randoms(3, [12])
    expected = []
    for place, residue in enumerate(sequence):
        text = pairs(sequence[:place]) + "##" + pairs(sequence[place + 1 :])
        with torch.inference_mode():
            logits = reference(tokenizer(text, return_tensors="pt").input_ids).logits[0, place + 1]
        probabilities = logits.double().softmax(-1)
        every = {
            letter: sum(probabilities[vocabulary[letter + state]] for state in "pynwrqhgdlvtmfsaeikc#")
            for letter in STANDARD
        }
        expected.append(float(every[residue].log()))
        if place == 4:
            (filled,) = load_masked_lm(folder).fill(sequence[:place] + "<mask>" + sequence[place + 1 :], top=20)
            best = sorted(STANDARD, key=lambda letter: -every[letter])
            assert filled.residues == best
            np.testing.assert_allclose(filled.probabilities, [every[letter] for letter in best], rtol=1e-4)
    np.testing.assert_allclose(load_masked_lm(folder).log_likelihoods(sequence.encode()), expected, atol=2e-5)
