"""Tokens of residues with their structure states, for the models that read them.

SaProt has a token for each pair of a residue and a state, ``Ap`` (Su et al. 2024, doi:10.1101/2023.10.01.560349);
ProstT5 reads states alone, in lower case after ``<fold2AA>`` (Heinzinger et al. 2024, doi:10.1093/nargab/lqae150).
"""

import os

import numpy as np

from embedome.common.errors import UserError
from embedome.models.tokenizer import STANDARD, ResidueTokenizer

FOLD = "<fold2AA>"
# Of a state that is not known: as `sequences.structures` has it, and in SaProt's tokens.
UNKNOWN, UNKNOWN_STATE = "X", "#"
PAIRS, STATES = "pairs", "states"


class StructureTokenizer(ResidueTokenizer):
    """Maps residues and their structure states to token ids, one token for both.

    Parameters
    ----------
    tokenizer : ResidueTokenizer
        Of residues alone.
    pairs : numpy.ndarray, dtype=int32, shape=(256, 256)
        Token of each residue and state, both upper-case ASCII.
    first : str or None
        Token before every sequence.
    reads : str
        `PAIRS` or `STATES`, for the provenance.
    unknown_states : bool
        Whether the model has tokens for states that are not known.
    """

    def __init__(
        self, tokenizer: ResidueTokenizer, pairs: np.ndarray, first: str | None, *, reads: str, unknown_states: bool
    ) -> None:
        self.ids, self.table, self.pairs = tokenizer.ids, tokenizer.table, pairs
        self.first = [] if first is None else [self.ids[first]]
        self.last = tokenizer.last
        self.size = int(max(pairs.max(), *self.first, *self.last)) + 1
        self.unknown_states = unknown_states
        between = tokenizer.preparation["between"]
        ends = {"first": first, "last": tokenizer.preparation["last"]}
        self.preparation = {"between": between, "structure": reads, **ends}

    @property
    def used(self) -> set[int]:
        """Ids that tokens of sequences have."""
        return {*np.unique(self.pairs).tolist(), *self.first, *self.last}

    def look_up(self, residues: np.ndarray, states: np.ndarray | None = None) -> np.ndarray:
        """Return the token of each residue, uint8 [R], and its structure state, uint8 [R]."""
        if states is None:
            raise ValueError("no structure states for a model that reads them")
        return self.pairs[residues, states]

    def check_states(self, name: str, states: bytes, model: str | os.PathLike) -> None:
        """Refuse states that are not known where the model has no tokens for them.

        Raises
        ------
        UserError
            Names the sequence.
        """
        if not self.unknown_states and (place := states.find(UNKNOWN.encode())) >= 0:
            raise UserError(
                f"{model}: structure state {place + 1} of {name!r} is not known, for which the model has no token; "
                "leave the sequence out, or take SaProt"
            )


def read_structure(tokenizer: ResidueTokenizer, directory: str | os.PathLike) -> StructureTokenizer:
    """Return the tokens with structure states of a model, from its tokens of residues alone.

    Raises
    ------
    UserError
        Where it reads no structure.
    """
    ids = tokenizer.ids
    if FOLD in ids and all(state.lower() in ids for state in STANDARD):
        return StructureTokenizer(tokenizer, table_of_states(tokenizer), FOLD, reads=STATES, unknown_states=False)
    known = all(residue + state in ids for residue in STANDARD for state in STANDARD.lower() + UNKNOWN_STATE)
    if known and tokenizer.preparation.get("after") == UNKNOWN_STATE:
        first = tokenizer.preparation["first"]
        return StructureTokenizer(tokenizer, table_of_pairs(tokenizer), first, reads=PAIRS, unknown_states=True)
    raise UserError(
        f"{directory}: the model reads no structure, but a 3Di FASTA is given; leave it out, or take SaProt or ProstT5"
    )


def table_of_states(tokenizer: ResidueTokenizer) -> np.ndarray:
    """Return the token of each state, whatever the residue, int32 [256, 256]; 0 of what is no state."""
    table = np.zeros((256, 256), np.int32)
    for state in STANDARD:
        table[:, ord(state)] = tokenizer.ids[state.lower()]
    return table


def table_of_pairs(tokenizer: ResidueTokenizer) -> np.ndarray:
    """Return the token of each pair, int32 [256, 256]; of residues beyond the 20 that of the residue alone."""
    # Each residue that has no pairs: the unknown token.
    table = np.repeat(tokenizer.table.astype(np.int32)[:, None], 256, axis=1)
    for residue in STANDARD:
        for state in STANDARD:
            table[ord(residue), ord(state)] = tokenizer.ids[residue + state.lower()]
    return table
