"""Validation: residues that are always the same ones hidden, and what can be guessed of them without a network.

A loss below the frequencies of the residues proves nothing: a sequence's own composition alone gives more. Beside each
loss stand three baselines on the same hidden residues.

Shapes: B sequences of a group, L tokens of each.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from embedome.common.errors import UserError
from embedome.models.tokenizer import STANDARD
from embedome.training.alphabet import Alphabet
from embedome.training.batches import Batches, Rows, deal
from embedome.training.objectives import (
    IGNORED,
    WHICH,
    BertMasks,
    Group,
    LegacyMasks,
    MaskedGroup,
    Objective,
    TokenGroup,
)
from embedome.training.recipes import Recipe
from embedome.training.store import Store

# What the fixed draws of validation depend on.
SEED = 7
# Sequences at most: those of ESM-1nv's card are 4,350.
MOST_SEQUENCES = 5000
# Of a sequence's own composition: how many residues the frequencies of all count for.
PSEUDO_COUNTS = 40.0
# Of neighbours: how far, and how much they weigh, as what they tell is told in part by the composition, too.
REACH, WEIGHT = 4, 0.5
# Residues of train that pairs are counted in, and sequences at once.
MOST_PAIRS, CHUNK = 20_000_000, 1 << 14
LETTERS = len(STANDARD)


@dataclass(frozen=True, slots=True)
class ExactMasks:
    """Of the n standard residues of a sequence ``round(rate n)`` become the mask.

    With masks of a recipe some residues stay as they are, and are nearly free; losses of two recipes could not be
    compared.

    Parameters
    ----------
    rate : float
    """

    rate: float
    # As of `batches.Hides`.
    whole: ClassVar[bool] = False

    def hide(self, group: TokenGroup, alphabet: Alphabet, max_tokens: int) -> MaskedGroup:
        """Hide residues of a group of sequences."""
        standard = np.isin(group.tokens, alphabet.standard)
        draws = np.where(standard, group.draw(WHICH), 2.0)
        rank = np.argsort(np.argsort(draws, 1, kind="stable"), 1, kind="stable")
        hidden = rank < np.rint(self.rate * standard.sum(1))[:, None]
        labels = np.where(hidden, group.tokens, IGNORED)
        return MaskedGroup(np.where(hidden, alphabet.mask, group.tokens), labels, group.starts)


def fixed(objective: Objective) -> Objective | ExactMasks:
    """Return the objective of validation: of masks exact ones, all of them the mask; span corruption as it is."""
    return ExactMasks(objective.rate) if isinstance(objective, BertMasks | LegacyMasks) else objective


class Validation:
    """The micro-batches of validation.

    Parameters
    ----------
    store : Store
        Held-out sequences.
    recipe : Recipe
    alphabet : Alphabet

    Raises
    ------
    UserError
        Where its sequences are too few and too short for a residue to be hidden.
    """

    def __init__(self, store: Store, recipe: Recipe, alphabet: Alphabet) -> None:
        self.batches = Batches(store, fixed(recipe.objective), alphabet, (), recipe.residues, SEED)
        self.rows: Rows = self.batches.first_rows(MOST_SEQUENCES, recipe.validation_tokens, SEED)
        if not any((group.labels != IGNORED).any() for group in self.batches.groups(self.rows)):
            raise UserError(
                f"{store.path}: {len(store)} held-out sequences, and none with a residue to hide; hold out more"
            )

    def micro_batches(self, budget: int, width: int, rank: int = 0, ranks: int = 1) -> list[list[Group]]:
        """Return the groups of each of a rank's micro-batches; a rank may have none."""
        pieces = deal(self.rows.tokens, 1, budget, width)[0]
        return [self.batches.groups(self.rows.take(piece)) for piece in pieces[rank::ranks]]


@dataclass(frozen=True, slots=True)
class Baselines:
    """Nats per hidden residue by models without a network.

    Parameters
    ----------
    unigram : float
        By the residues' frequencies in train.
    composition : float
        By the sequence's own visible residues.
    neighbours : float
        By these, and by the visible residues, and ends of the sequence, up to four places away.
    """

    unigram: float
    composition: float
    neighbours: float


def measure_baselines(train: Store, validation: Validation, alphabet: Alphabet) -> Baselines:
    """Guess the hidden residues of validation without a network."""
    frequencies = residue_frequencies(train)
    pairs = neighbour_tables(train)
    sums, count = np.zeros(3), 0
    for group in validation.batches.groups(validation.rows):
        seen, hidden = visible_and_hidden(group, alphabet)
        rows, places = np.nonzero(hidden >= 0)
        truth = hidden[rows, places]
        own = composition(seen, frequencies)[rows]
        both = log_softmax(own + WEIGHT * neighbour_evidence(seen, pairs)[rows, places])
        for number, logs in enumerate((np.log(frequencies)[None].repeat(len(rows), 0), own, both)):
            sums[number] -= logs[np.arange(len(rows)), truth].sum()
        count += len(rows)
    return Baselines(*(sums / max(1, count)).tolist())


def residue_frequencies(store: Store) -> np.ndarray:
    """Frequencies of the standard residues, each counted once more than it occurs; float64 [20]."""
    counts = store.letters[list(STANDARD.encode())] + 1.0
    return counts / counts.sum()


def residue_numbers(alphabet: Alphabet) -> np.ndarray:
    """For each token id its number among the standard residues, or -1; int8 [V]."""
    numbers = np.full(max(len(alphabet.can_hide), int(alphabet.standard.max()) + 1), -1, np.int8)
    numbers[alphabet.standard] = np.arange(LETTERS)
    return numbers


def visible_and_hidden(group: Group, alphabet: Alphabet) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard residues that are seen, and those that are hidden, by their numbers; int8 [B, L].

    A sequence's ends are places of their own, whether the model has tokens for them or not: seen there is the number
    20, where the end is seen. All else is -1.
    """
    numbers = residue_numbers(alphabet)
    if isinstance(group, MaskedGroup):
        tokens, hidden = group.tokens, np.where(group.labels == IGNORED, -1, numbers[np.maximum(group.labels, 0)])
        seen = np.where(hidden < 0, numbers[tokens], -1)
    else:
        tokens, seen, hidden = group.source, numbers[group.source], np.full(group.source.shape, -1, np.int8)
        # Sentinels are in the order of the places, and each row has as many.
        hidden[np.isin(tokens, alphabet.sentinels)] = numbers[group.labels[:, 1:-1:2].ravel()]
    for special, side in ((alphabet.first, 0), (alphabet.last, -1)):
        if special:
            seen[tokens[:, side] == special[0], side] = LETTERS
        else:
            around = [(0, 0), (1, 0) if side == 0 else (0, 1)]
            seen = np.pad(seen, around, constant_values=LETTERS)
            hidden = np.pad(hidden, around, constant_values=-1)
    return seen, hidden


def composition(seen: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Logarithms of the frequencies of visible residues [B, L] in each sequence; float64 [B, 20]."""
    counts = np.stack([(seen == number).sum(1) for number in range(LETTERS)], 1) + PSEUDO_COUNTS * frequencies
    return np.log(counts / counts.sum(1, keepdims=True))


def neighbour_tables(store: Store) -> np.ndarray:
    """Return what a neighbour tells of a residue: logarithms of how much more often the two meet than by chance.

    Returns
    -------
    numpy.ndarray, dtype=float64, shape=(2, REACH, 21, 20)
        By side (before, after), distance less 1, neighbour (the standard residues, and last the sequence's end on that
        side), and residue.
    """
    numbers = np.full(256, -1, np.int8)
    numbers[list(STANDARD.encode())] = np.arange(LETTERS)
    counts = np.ones((2, REACH, LETTERS + 1, LETTERS))
    # Whole sequences of this many residues, in pieces.
    last = max(1, int(np.searchsorted(store.offsets, MOST_PAIRS, side="right")) - 1)
    for begin in range(0, min(last, len(store)), CHUNK):
        ends = store.offsets[begin : min(begin + CHUNK, last, len(store)) + 1]
        codes = numbers[store.residues[ends[0] : ends[-1]]].astype(np.int64)
        starts, ends, owner = (
            ends[:-1] - ends[0],
            ends[1:] - ends[0],
            np.repeat(np.arange(len(ends) - 1), np.diff(ends)),
        )
        for distance in range(1, REACH + 1):
            one, other = codes[:-distance], codes[distance:]
            sound = (one >= 0) & (other >= 0) & (owner[:-distance] == owner[distance:])
            pairs = np.bincount((LETTERS * one + other)[sound], minlength=LETTERS**2).reshape(LETTERS, LETTERS)
            counts[0, distance - 1, :LETTERS] += pairs
            counts[1, distance - 1, :LETTERS] += pairs.T
            long = ends - starts >= distance
            for side, places in enumerate((starts + distance - 1, ends - distance)):
                found = codes[places[long]]
                counts[side, distance - 1, LETTERS] += np.bincount(found[found >= 0], minlength=LETTERS)
    counts /= counts.sum((2, 3), keepdims=True)
    return np.log(counts / (counts.sum(3, keepdims=True) * counts.sum(2, keepdims=True)))


def neighbour_evidence(seen: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Return what visible neighbours [B, L] tell of each residue of each place; float64 [B, L, 20]."""
    evidence = np.zeros((*seen.shape, LETTERS))
    # Of what is not seen nothing: the last row, number -1.
    padded = np.concatenate([tables, np.zeros((*tables.shape[:2], 1, LETTERS))], 2)
    for distance in range(1, min(len(tables[0]), seen.shape[1] - 1) + 1):
        evidence[:, distance:] += padded[0, distance - 1][seen[:, :-distance]]
        evidence[:, :-distance] += padded[1, distance - 1][seen[:, distance:]]
    return evidence


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities, over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
