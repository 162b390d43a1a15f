"""Tokenising protein sequences: one token per residue, by table look-up over bytes."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from embedome.errors import UserError
from embedome.files import read_json

# The 30 pieces of the SentencePiece model that ESM-1nv and ProtT5nv share, in id order (docs/models.md).
ESM1NV_PIECES = ("<unk>", "<s>", "</s>", "<pad>", "<mask>", *"LASGVERTDIPKNFQYHMCWXBZUO")


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
        self.table = np.full(256, vocabulary[unknown], np.int64)
        for token, index in vocabulary.items():
            if len(token) == 1 and token.isascii():
                self.table[ord(token)] = index
        self.first = [] if first is None else [vocabulary[first]]
        self.last = [] if last is None else [vocabulary[last]]
        self.size = max(vocabulary.values()) + 1

    @property
    def n_special(self) -> int:
        """Number of tokens added to a sequence."""
        return len(self.first) + len(self.last)

    def tokens(self, residues: np.ndarray) -> np.ndarray:
        """Map ASCII residues, uint8 [B, L], to token ids with the special tokens, int64 [B, L + n_special]."""
        batch, length = residues.shape
        tokens = np.empty((batch, length + self.n_special), np.int64)
        tokens[:, : len(self.first)] = self.first
        tokens[:, len(self.first) : len(self.first) + length] = self.table[residues]
        tokens[:, len(self.first) + length :] = self.last
        return tokens


def load_tokenizer(directory: str | os.PathLike, first: str | None, last: str | None) -> ResidueTokenizer:
    """Read a model directory's tokenizer.json.

    Raises
    ------
    UserError
        Where it is missing, is no vocabulary of single residues, or lacks a special token.
    """
    path = Path(directory) / "tokenizer.json"
    content = read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or model.get("unk_token") not in vocabulary:
        raise UserError(f"{path}: expected a vocabulary with an unknown token, as `embedome` writes it")
    missing = [
        token for token in (*"ACDEFGHIKLMNPQRSTVWY", first, last) if token is not None and token not in vocabulary
    ]
    if missing:
        raise UserError(f"{path}: the vocabulary lacks {', '.join(missing)}; is this a protein model?")
    return ResidueTokenizer(vocabulary, model["unk_token"], first, last)


def save_esm1nv_tokenizer(directory: str | os.PathLike, max_tokens: int) -> None:
    """Write ESM-1nv's tokenizer as a Hugging Face fast tokenizer: one token per character, ``<s>`` … ``</s>``.

    Unlike the SentencePiece original, a run of unknown characters stays as many tokens as it has characters.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(ESM1NV_PIECES)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    special = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=max_tokens,
    ).save_pretrained(directory)
