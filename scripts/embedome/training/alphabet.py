"""The token ids that an objective needs, out of a model's vocabulary."""

from dataclasses import dataclass

import numpy as np

from embedome.models.registry import find_entry
from embedome.models.tokenizer import STANDARD, ResidueTokenizer
from embedome.models.vocabularies import VOCABULARIES

# Nothing is learnt from guessing X, and nothing is known of what a vocabulary has no letter for.
UNKNOWN_RESIDUE = "X"
UNKNOWN, MASK, END = "<unk>", "<mask>", "</s>"
SENTINEL = "<extra_id_{}>"


@dataclass(frozen=True, slots=True)
class Alphabet:
    """Token ids by what they are for.

    Parameters
    ----------
    table : numpy.ndarray, dtype=int64, shape=(256,)
        Id of each byte of a sequence.
    first, last : tuple of int
        Before and after every sequence; none or one each.
    standard : numpy.ndarray, dtype=int64, shape=(20,)
        The standard residues.
    residues : numpy.ndarray, dtype=int64, shape=(n,)
        All letters of the vocabulary.
    can_hide : numpy.ndarray, dtype=bool, shape=(V,)
        Whether a token may be hidden by a mask: all residues but X.
    mask : int
        -1 where the vocabulary has none.
    sentinels : tuple of int
        What takes the places of hidden residues in T5, in order.
    start, end : int or None
        What a decoder begins with, and what ends its labels.
    """

    table: np.ndarray
    first: tuple[int, ...]
    last: tuple[int, ...]
    standard: np.ndarray
    residues: np.ndarray
    can_hide: np.ndarray
    mask: int
    sentinels: tuple[int, ...]
    start: int | None
    end: int | None

    @property
    def n_special(self) -> int:
        """Tokens around a sequence."""
        return len(self.first) + len(self.last)

    @classmethod
    def of_model(cls, name: str) -> "Alphabet":
        """Return the alphabet of a registered model."""
        entry = find_entry(name)
        ids = {token: number for number, token in enumerate(VOCABULARIES[entry.vocabulary].tokens)}
        tokenizer = ResidueTokenizer(ids, UNKNOWN, entry.first, entry.last)
        letters = tokenizer.letters
        can_hide = np.zeros(len(ids), bool)
        can_hide[[token for token, letter in letters.items() if letter != UNKNOWN_RESIDUE]] = True
        count = next(number for number in range(len(ids)) if SENTINEL.format(number) not in ids)
        return cls(
            table=tokenizer.table,
            first=tuple(tokenizer.first),
            last=tuple(tokenizer.last),
            standard=np.array([ids[residue] for residue in STANDARD]),
            residues=np.array(sorted(letters)),
            can_hide=can_hide,
            mask=ids.get(MASK, -1),
            sentinels=tuple(ids[SENTINEL.format(number)] for number in range(count)),
            start=entry.config.get("decoder_start_token_id"),
            end=ids.get(END),
        )
