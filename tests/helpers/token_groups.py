"""Sequences as groups of tokens."""

import numpy as np
from embedome.training.alphabet import Alphabet
from embedome.training.objectives import TokenGroup


def group_of(sequences: list[str], alphabet: Alphabet, keys: list[int] | None = None) -> TokenGroup:
    """Sequences of one length, whole, as tokens."""
    letters = np.array([list(sequence.encode()) for sequence in sequences], np.int64).reshape(len(sequences), -1)
    first = np.tile(np.array(alphabet.first, np.int64), (len(sequences), 1))
    last = np.tile(np.array(alphabet.last, np.int64), (len(sequences), 1))
    tokens = np.concatenate([first, alphabet.table[letters], last], 1)
    keys = list(range(len(sequences))) if keys is None else keys
    return TokenGroup(tokens, np.zeros(len(sequences), np.int64), np.array(keys, np.uint64))
