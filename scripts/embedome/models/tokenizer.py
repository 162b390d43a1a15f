"""Tokenising protein sequences: one token per residue, by table look-up over bytes."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedome.common.errors import UserError
from embedome.common.json_files import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Where a model directory may have its vocabulary, in the order of preference.
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "spiece.model")
BESIDE_SPIECE = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")
SAVE_JSON = "save a tokenizer.json beside it with `AutoTokenizer.from_pretrained(...).save_pretrained(...)`"
STANDARD = "ACDEFGHIKLMNPQRSTVWY"
# Residues that ProtT5's authors replace by X (Elnaggar et al. 2021, doi:10.1109/TPAMI.2021.3095381).
REPLACED = "UZOB"
# SentencePiece's mark for a space.
SPACE = "▁"


class ResidueTokenizer:
    """Maps residues to token ids, each character to one token, unknown ones to the unknown token.

    Parameters
    ----------
    vocabulary : mapping of str to int
        Token to id; residues are its tokens of one character.
    unknown : str
        The unknown token.
    first, last : str or None
        Tokens put before and behind every sequence.
    """

    def __init__(self, vocabulary: Mapping[str, int], unknown: str, first: str | None, last: str | None) -> None:
        self.ids = dict(vocabulary)
        self.table = np.full(256, vocabulary[unknown], np.int64)
        for token, index in vocabulary.items():
            if len(token) == 1 and token.isascii():
                self.table[ord(token)] = index
        self.first = [] if first is None else [vocabulary[first]]
        self.last = [] if last is None else [vocabulary[last]]
        self.size = int(max([self.table.max(), *self.first, *self.last])) + 1

    @property
    def n_special(self) -> int:
        """Number of tokens added to a sequence."""
        return len(self.first) + len(self.last)

    @property
    def letters(self) -> dict[int, str]:
        """The residue of each id; X where several have the id of X."""
        residues = [token for token in self.ids if len(token) == 1 and token.isascii() and token.isalpha()]
        return {self.ids[token]: token for token in sorted(residues, key="X".__eq__)}

    def tokens(self, residues: np.ndarray) -> np.ndarray:
        """Map ASCII residues, uint8 [B, L], to token ids with the special tokens, int64 [B, L + n_special]."""
        batch, length = residues.shape
        tokens = np.empty((batch, length + self.n_special), np.int64)
        tokens[:, : len(self.first)] = self.first
        tokens[:, len(self.first) : len(self.first) + length] = self.table[residues]
        tokens[:, len(self.first) + length :] = self.last
        return tokens


def vocabulary_file(directory: str | os.PathLike) -> Path:
    """The first of `VOCABULARY_FILES` that a model directory has; where it has none, the path the first would have."""
    paths = [Path(directory) / name for name in VOCABULARY_FILES]
    return next((path for path in paths if path.is_file()), paths[0])


def vocabulary_files(directory: str | os.PathLike) -> list[Path]:
    """`vocabulary_file`, and behind a spiece.model the files beside it that change what is read of it."""
    path = vocabulary_file(directory)
    beside = BESIDE_SPIECE if path.name == "spiece.model" else ()
    return [path, *(each for name in beside if (each := path.with_name(name)).is_file())]


def load_tokenizer(
    directory: str | os.PathLike, first: str | None, last: str | None, *, tasks: Sequence[str] = ()
) -> ResidueTokenizer:
    """Read the vocabulary of a model directory: tokenizer.json, vocab.txt or spiece.model.

    Where it is one for residues between spaces, ProtT5's, U, Z, O and B are X, by which its authors replace them.

    Parameters
    ----------
    directory : path
    first, last : str or None
        As in `ResidueTokenizer`.
    tasks : sequence of str
        Tokens that take the place of `first` where the vocabulary has one.

    Raises
    ------
    UserError
        Where it is missing, is no vocabulary of single residues, or lacks a special token.
    """
    path = vocabulary_file(directory)
    vocabulary = READERS[path.name](path)
    ids = vocabulary.ids
    first = next((token for token in tasks if token in ids), first)
    if tasks and first is None and any(len(token) == 1 and "a" <= token <= "z" for token in ids):
        # ProstT5's structure states. Its spiece.model has them alone, and the tasks are in a file beside it.
        raise UserError(f"{path}: the vocabulary lacks {tasks[0]}; copy the model's added_tokens.json, too")
    missing = [token for token in (*STANDARD, first, last) if token is not None and token not in ids]
    if missing:
        raise UserError(f"{path}: the vocabulary lacks {', '.join(missing)}; is this a protein model?")
    if vocabulary.spaced and "X" in ids:
        ids = {**ids, **dict.fromkeys(REPLACED, ids["X"])}
    return ResidueTokenizer(ids, vocabulary.unknown, first, last)


@dataclass(frozen=True, slots=True)
class LoadedVocabulary:
    """What a vocabulary file says.

    Parameters
    ----------
    ids : mapping of str to int
        Token to id; residues are tokens of one character.
    unknown : str
        The unknown token.
    spaced : bool
        Whether the Hugging Face tokenizer knows residues only with spaces between them.
    """

    ids: Mapping[str, int]
    unknown: str
    spaced: bool = False


def read_tokenizer_json(path: Path) -> LoadedVocabulary:
    """Read a Hugging Face fast tokenizer, of whole words or of SentencePiece's unigrams."""
    from tokenizers import Tokenizer

    content = read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list) and isinstance(model.get("unk_id"), int):
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library has no class for it
            raise UserError(f"{path}: not a readable tokenizer ({error}); copy it again") from None
        return unigram_vocabulary(path, tokenizer, content)
    if not isinstance(vocabulary, dict) or model.get("unk_token") not in vocabulary:
        raise UserError(f"{path}: expected a vocabulary with an unknown token, as `embedome` writes it")
    if model.get("merges"):
        raise UserError(f"{path}: expected a vocabulary of single residues, but this one merges them")
    return LoadedVocabulary({**added_tokens(content), **vocabulary}, model["unk_token"])


def added_tokens(content: Mapping[str, Any]) -> dict[str, int]:
    """The tokens that a tokenizer.json has beside its vocabulary."""
    return {token["content"]: token["id"] for token in content.get("added_tokens") or ()}


def unigram_vocabulary(path: Path, tokenizer: "Tokenizer", content: Mapping[str, Any]) -> LoadedVocabulary:
    """The ids that a tokenizer of SentencePiece's unigrams gives residues inside a sequence.

    Pieces are "A", or "▁A" for a residue behind a space, or both: the tokenizer is asked, residue by residue.
    """
    pieces = {piece: index for index, (piece, _) in enumerate(content["model"]["vocab"])}
    unknown = content["model"]["unk_id"]
    special = added_tokens(content)
    ordinary = [piece.removeprefix(SPACE) for piece in pieces if piece not in special]
    longer = [piece for piece in ordinary if len(piece) > 1 and set(piece) <= set(STANDARD)]
    if longer:
        raise UserError(f"{path}: expected a vocabulary of single residues, but it has {longer[0]!r}")
    spaced = "A" not in pieces
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = {**{piece: index for piece, index in pieces.items() if len(piece) > 1}, **special}
    space = " " if spaced else ""
    for letter in sorted({piece for piece in ordinary if len(piece) == 1 and piece.isascii()}):
        encoding = tokenizer.encode(f"A{space}{letter}{space}A", add_special_tokens=False)
        token = encoding.char_to_token(1 + len(space))
        if token is not None and encoding.ids[token] != unknown:
            ids[letter] = encoding.ids[token]
    return LoadedVocabulary(ids, list(pieces)[unknown], spaced)


def read_vocab_txt(path: Path) -> LoadedVocabulary:
    """Read a file of one token per line, in id order: ESM-2's."""
    try:
        tokens = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error}); copy it again") from None
    ids = {token.strip(): index for index, token in enumerate(tokens)}
    if "<unk>" not in ids:
        raise UserError(f"{path}: expected a vocabulary with an unknown token, <unk>, one token per line")
    return LoadedVocabulary(ids, "<unk>")


def read_spiece_model(path: Path) -> LoadedVocabulary:
    """Read a SentencePiece model by way of transformers, which needs the package sentencepiece for it."""
    if not find_spec("sentencepiece"):
        raise UserError(f"{path}: the package sentencepiece, which reads this, is not installed; {SAVE_JSON}")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, local_files_only=True).backend_tokenizer
    except Exception as error:  # of transformers, sentencepiece or protobuf
        raise UserError(
            f"{path}: transformers cannot read this ({' '.join(str(error).split())}); {SAVE_JSON}"
        ) from None
    content = json.loads(tokenizer.to_str())
    if content["model"]["type"] != "Unigram":
        raise UserError(f"{path}: expected a model of SentencePiece's unigrams; {SAVE_JSON}")
    return unigram_vocabulary(path, tokenizer, content)


READERS = {"tokenizer.json": read_tokenizer_json, "vocab.txt": read_vocab_txt, "spiece.model": read_spiece_model}
