"""The look-up table gives the ids of ESM-1nv, and those of the Hugging Face tokenizer saved with it."""

import json
import shutil
import string
from pathlib import Path

import numpy as np
import pytest
from embedome.common.errors import UserError
from embedome.models.tokenizer import ResidueTokenizer, load_tokenizer
from embedome.models.vocabularies import save_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

# Read off BioNeMo's protein_sequence_sentencepiece.model, md5 77c68892d9236139801c0cfccb41c9c9.
PUBLISHED = (
    {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3, "<mask>": 4}
    | {"L": 5, "A": 6, "S": 7, "G": 8, "V": 9, "E": 10, "R": 11, "T": 12, "D": 13, "I": 14, "P": 15, "K": 16}
    | {"N": 17, "F": 18, "Q": 19, "Y": 20, "H": 21, "M": 22, "C": 23, "W": 24, "X": 25, "B": 26, "Z": 27}
    | {"U": 28, "O": 29}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder, "esm1nv", 512)
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> ResidueTokenizer:
    return load_tokenizer(folder, "<s>", "</s>")


@pytest.fixture(scope="module")
def hugging_face(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


def tokens(tokenizer: ResidueTokenizer, text: str) -> list[int]:
    return tokenizer.tokens(np.frombuffer(text.encode("latin-1"), np.uint8)[None])[0].tolist()


def test_vocabulary_is_the_published_one(folder: Path, hugging_face: PreTrainedTokenizerBase) -> None:
    assert hugging_face.get_vocab() == PUBLISHED
    assert json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"] == PUBLISHED


def test_each_residue_gets_its_published_id(table: ResidueTokenizer) -> None:
    residues = [token for token in PUBLISHED if len(token) == 1]
    assert tokens(table, "".join(residues)) == [1, *range(5, 30), 2]
    assert tokens(table, "MKJ*") == [1, 22, 16, 0, 0, 2]
    others = "".join(map(chr, set(range(256)) - set(map(ord, residues))))
    assert tokens(table, others) == [1, *[0] * 231, 2]


def test_special_tokens_and_length_are_known_to_hugging_face(hugging_face: PreTrainedTokenizerBase) -> None:
    names = [hugging_face.unk_token, hugging_face.bos_token, hugging_face.eos_token, hugging_face.pad_token]
    assert [*names, hugging_face.mask_token] == ["<unk>", "<s>", "</s>", "<pad>", "<mask>"]
    assert hugging_face.model_max_length == 512
    padded = hugging_face(["ML", "M"], padding=True)
    assert padded.input_ids == [[1, 22, 5, 2], [1, 22, 2, 3]]
    assert padded.attention_mask == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert hugging_face("ML<mask>").input_ids == [1, 22, 5, 4, 2]


ODD = "".join(set(string.printable) - set(string.ascii_letters) - set("<")) + "\x00\x1f\x7f"


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        st.text(st.sampled_from(string.ascii_letters + ODD), max_size=80),
        st.text(st.sampled_from(string.ascii_uppercase), min_size=1, max_size=300),
    )
)
def test_table_equals_hugging_face(table: ResidueTokenizer, hugging_face: PreTrainedTokenizerBase, text: str) -> None:
    found = tokens(table, text)
    assert found == hugging_face(text).input_ids
    assert found == [1, *(PUBLISHED.get(character, 0) for character in text), 2]


def test_a_run_of_unknown_characters_keeps_its_length(hugging_face: PreTrainedTokenizerBase) -> None:
    assert hugging_face("A***--JJ A").input_ids == [1, 6, *[0] * 8, 6, 2]


def test_batches_and_other_special_tokens(table: ResidueTokenizer) -> None:
    residues = np.array([list(b"MLA"), list(b"WWJ")], np.uint8)
    assert table.tokens(residues).tolist() == [[1, 22, 5, 6, 2], [1, 24, 24, 0, 2]]
    assert table.tokens(residues).dtype == np.int64
    assert table.tokens(residues[:0]).shape == (0, 5)
    last_only = ResidueTokenizer(PUBLISHED, "<unk>", None, "</s>")
    assert last_only.tokens(residues).tolist() == [[22, 5, 6, 2], [24, 24, 0, 2]]
    assert last_only.n_special == 1
    assert ResidueTokenizer(PUBLISHED, "<unk>", None, None).tokens(residues).tolist() == [[22, 5, 6], [24, 24, 0]]


def with_model(folder: Path, changes: dict[str, object]) -> str:
    """The text of a tokenizer.json with another model."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] |= changes
    content["added_tokens"] = []
    return json.dumps(content)


def without(*tokens: str) -> dict[str, object]:
    """A vocabulary that lacks some tokens, its ids without gaps."""
    kept = [token for token in PUBLISHED if token not in tokens]
    return {"vocab": {token: index for index, token in enumerate(kept)}}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (None, "no such file"),
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "transformers cannot read this"),
        ('{"model": null}', "transformers cannot read this"),
        ({"type": "Unigram", "vocab": [["L", -1.0], ["A", -2.0]], "unk_id": 0}, "the vocabulary lacks"),
        ({"unk_token": "[UNK]"}, "Missing [UNK] token from the vocabulary"),
        ({"type": "BPE", "merges": [["A", "L"]], "vocab": {"<unk>": 0, "A": 1, "L": 2, "AL": 3}}, "it has 'AL'"),
        ({"vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "A": 3}}, "lacks C, D, E"),
        ({"vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "the": 3, "A": 4}}, "it has 'the'"),
        (without("W"), "lacks W;"),
    ],
)
def test_other_tokenizers_are_refused_by_name(
    folder: Path, tmp_path: Path, change: dict[str, object] | str | None, what: str
) -> None:
    if change is not None:
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        text = change if isinstance(change, str) else with_model(folder, change)
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"tokenizer\.json: ") as excinfo:
        load_tokenizer(tmp_path, "<s>", "</s>")
    assert what in str(excinfo.value)
    assert "\n" not in str(excinfo.value)
