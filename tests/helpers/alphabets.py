"""The alphabets of the founding models, and sequences as groups of tokens."""

from functools import cache

import numpy as np
from embedome.models.registry import find_entry
from embedome.models.tokenizer import ResidueTokenizer
from embedome.models.vocabularies import VOCABULARIES
from embedome.training.alphabet import Alphabet
from embedome.training.objectives import TokenGroup


@cache
def alphabet_of(model: str) -> Alphabet:
    """The alphabet of a registered model."""
    entry = find_entry(model)
    ids = {token: number for number, token in enumerate(VOCABULARIES[entry.vocabulary].tokens)}
    tokenizer = ResidueTokenizer(ids, "<unk>", entry.first, entry.last)
    return Alphabet.of(tokenizer, entry.config.get("decoder_start_token_id"))


def group_of(sequences: list[str], alphabet: Alphabet, keys: list[int] | None = None) -> TokenGroup:
    """Sequences of one length, whole, as tokens."""
    letters = np.array([list(sequence.encode()) for sequence in sequences], np.int64).reshape(len(sequences), -1)
    first = np.tile(np.array(alphabet.first, np.int64), (len(sequences), 1))
    last = np.tile(np.array(alphabet.last, np.int64), (len(sequences), 1))
    tokens = np.concatenate([first, alphabet.table[letters], last], 1)
    keys = list(range(len(sequences))) if keys is None else keys
    return TokenGroup(tokens, np.zeros(len(sequences), np.int64), np.array(keys, np.uint64))
