"""BERT and RoBERTa: their vocabularies as ProtBERT, AntiBERTy and Sapiens have them, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from embedome.engine.engine import Engine
from embedome.models.directory import load_model, model_identity
from embedome.models.vocabularies import VOCABULARIES, save_tokenizer
from helpers.rough_encoders import (
    bert_reference,
    edit_config,
    join,
    make_bert,
    make_roberta,
    randoms,
    refusal,
    roberta_reference,
    tokens,
)
from helpers.small_run import assert_within_one_ulp
from transformers import AutoTokenizer, BertTokenizer


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return make_bert(tmp_path / "bert")


@pytest.fixture
def roberta(tmp_path: Path) -> Path:
    return make_roberta(tmp_path / "roberta")


# Tokens


def test_ids_are_those_of_protbert_s_tokenizer_after_its_authors_preprocessing(bert: Path) -> None:
    model, tokenizer = load_model(bert), BertTokenizer(str(bert / "vocab.txt"), do_lower_case=False)
    for text in ["M", "LAGVESIKRDTPNQFYMHWCX", "MJA", "A*MK", "Aa", *randoms(1, [30, 100])]:
        assert tokens(model, text) == tokenizer(" ".join(text)).input_ids
    assert tokens(model, "AUZOB") == tokenizer("A X X X X").input_ids
    assert model_identity(bert)["preprocessing"] == {"between": " ", "as_x": "UZOB", "first": "[CLS]", "last": "[SEP]"}


def test_letters_that_a_directory_adds_stay_what_they_are(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "model", vocab_size=31)
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)
    tokenizer.add_tokens(["J"])
    (folder / "vocab.txt").unlink()
    tokenizer.save_pretrained(folder)
    assert tokens(load_model(folder), "AJO") == tokenizer("A J X").input_ids == [2, 6, 30, 25, 3]


@pytest.mark.parametrize("about", [None, {}, {"tokenizer_class": "BertTokenizer"}])
def test_capital_letters_stay_so_where_the_vocabulary_has_no_small_ones(tmp_path: Path, about: dict | None) -> None:
    """AntiBERTy's code says that its tokenizer does not lower them; its files do not."""
    folder = make_bert(tmp_path / "model", vocab_size=25)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARIES["antiberty"].tokens))
    (folder / "tokenizer_config.json").unlink()
    if about is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
    model, tokenizer = load_model(folder), BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)
    for text in ["EVQLVESGGGLVQPGGSLRLSCAASGFTFS", "AXUBZOJ"]:
        assert tokens(model, text) == tokenizer(" ".join(text)).input_ids


def test_a_vocabulary_of_small_letters_is_refused(bert: Path) -> None:
    (bert / "vocab.txt").write_text((bert / "vocab.txt").read_text().lower().replace("[unk]", "[UNK]"))
    assert "lacks A, C, D" in refusal(bert)


@pytest.mark.parametrize("ends", [("[CLS]", "[SEP]"), ("<s>", "</s>"), ("<cls>", "<eos>")])
def test_a_roberta_has_the_ends_that_its_vocabulary_has(roberta: Path, ends: tuple[str, str]) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (roberta / name).read_text().replace("[CLS]", ends[0]).replace("[SEP]", ends[1])
        (roberta / name).write_text(text)
    model = load_model(roberta)
    assert tokens(model, "ACY") == [0, 4, 5, 23, 2] == AutoTokenizer.from_pretrained(roberta)("ACY").input_ids
    assert model_identity(roberta)["preprocessing"] == {
        "between": "", "as_x": "", "first": ends[0], "last": ends[1]
    }  # fmt: skip


def test_written_vocabularies_are_read_as_released_ones(bert: Path, tmp_path: Path) -> None:
    released = load_model(bert).tokenizer
    other = shutil.copytree(bert, tmp_path / "other")
    for name in ("vocab.txt", "tokenizer_config.json"):
        (other / name).unlink()
    save_tokenizer(other, "protbert", None)
    assert np.array_equal(load_model(other).tokenizer.table, released.table)


# Positions


def test_the_longest_sequence_has_the_last_position(bert: Path, roberta: Path) -> None:
    for folder, reference, longest in ((bert, bert_reference, 1024), (roberta, roberta_reference, 1022)):
        model = load_model(folder)
        assert model.max_residues == longest
        sequences = randoms(5, [longest, longest + 1])
        found = Engine(model).embed(join(sequences))
        exact = np.stack([reference(folder).mean(sequence[:longest]) for sequence in sequences])
        assert_within_one_ulp(found.vectors["mean"], exact)
        assert found.state.tolist() == ["embedded", "truncated"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; expected one of gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"num_attention_heads": 5}, "hidden_size is 32; expected a multiple of num_attention_heads, 5"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"pad_token_id": 5}, "pad_token_id is 5, which is not a padding's"),
        ({"pad_token_id": 25}, "pad_token_id is 25, which is not a padding's"),
    ],
)
def test_what_is_no_such_encoder_is_refused(roberta: Path, change: dict, what: str) -> None:
    edit_config(roberta, lambda config: config.update(change))
    assert f"config.json: {what}" in refusal(roberta)
