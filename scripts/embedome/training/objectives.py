"""What a model has to guess: BERT's masks, as now and as once, and T5's span corruption with spans of one residue.

An objective is data, part of a recipe; which residues it hides is a function of a key for each sequence and of the
positions alone (`counter_random`), so that no two epochs hide the same, and it is known again after a crash.
Shapes: B sequences of one length, T tokens of each, special ones among them, n hidden residues of each.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from embedome.common.errors import UserError
from embedome.training.alphabet import Alphabet
from embedome.training.counter_random import uniform

# A label that is not guessed, as torch's cross entropy has it.
IGNORED = -100
# Each position has a random number of its own for each of these questions.
WHICH, HOW, WHAT = range(3)


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """Sequences of one length as tokens, or windows of them.

    Parameters
    ----------
    tokens : numpy.ndarray, dtype=int64, shape=(B, T)
    starts : numpy.ndarray, dtype=int64, shape=(B,)
        Position of each one's first token in its sequence.
    keys : numpy.ndarray, dtype=uint64, shape=(B,)
        What the draws of each depend on.
    """

    tokens: np.ndarray
    starts: np.ndarray
    keys: np.ndarray

    @property
    def positions(self) -> np.ndarray:
        """Position of each token in its sequence, int64 [B, T]."""
        return self.starts[:, None] + np.arange(self.tokens.shape[1])

    def draw(self, what: int) -> np.ndarray:
        """One number in [0, 1) for each token, float64 [B, T]."""
        return uniform(self.keys[:, None], self.positions, what)


@dataclass(frozen=True, slots=True)
class MaskedGroup:
    """What a masked language model is given, and what it has to guess.

    Parameters
    ----------
    tokens, labels : numpy.ndarray, dtype=int64, shape=(B, T)
        Labels are `IGNORED` but for hidden residues.
    starts : numpy.ndarray, dtype=int64, shape=(B,)
    """

    tokens: np.ndarray
    labels: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True, slots=True)
class SpanGroup:
    """What an encoder-decoder is given, and what it has to write.

    Parameters
    ----------
    source : numpy.ndarray, dtype=int64, shape=(B, T)
    decoder, labels : numpy.ndarray, dtype=int64, shape=(B, 2n + 1)
        Labels are the decoder's input one token later. The first, third, … is a sentinel, or the end; the second,
        fourth, … a residue.
    """

    source: np.ndarray
    decoder: np.ndarray
    labels: np.ndarray


Group = MaskedGroup | SpanGroup


@dataclass(frozen=True, slots=True)
class BertMasks:
    """Masks of BERT (Devlin et al. 2019, arXiv:1810.04805), as ESM-1nv has them since BioNeMo 1.6.

    Each residue is chosen with probability `rate`, by itself, at least one of a sequence; X and unknown characters
    never. Of the chosen, a part becomes the mask, a part another one of the 20 standard residues, the rest stays.

    Parameters
    ----------
    rate, masked, replaced : float
        `masked` and `replaced` are parts of the chosen ones.
    """

    rate: float
    masked: float
    replaced: float

    # Whether a sequence must be whole when residues are chosen.
    whole: ClassVar[bool] = False

    def hide(self, group: TokenGroup, alphabet: Alphabet, max_tokens: int) -> MaskedGroup:
        """Hide residues of a group of sequences."""
        draws = np.where(alphabet.can_hide[group.tokens], group.draw(WHICH), 1.0)
        chosen = draws < self.rate
        # At least one: the first that a higher rate would choose.
        none = ~chosen.any(1) & (draws < 1).any(1)
        chosen[none, draws[none].argmin(1)] = True
        return replace_chosen(group, alphabet, chosen, (self.masked, self.replaced), alphabet.standard)


@dataclass(frozen=True, slots=True)
class LegacyMasks:
    """Masks of ESM-1nv in BioNeMo 0.3 to 1.3: exactly ``int(rate T)`` of T tokens, special ones too.

    They are chosen of the whole sequence, which is cut afterwards. Of the chosen, a part becomes the mask, the rest
    another letter of the vocabulary.

    Parameters
    ----------
    rate, masked : float
    """

    rate: float
    masked: float

    # Whether a sequence must be whole when residues are chosen.
    whole: ClassVar[bool] = True

    def hide(self, group: TokenGroup, alphabet: Alphabet, max_tokens: int) -> MaskedGroup:
        """Hide tokens of a group of sequences, and cut them to `max_tokens`."""
        batch, length = group.tokens.shape
        chosen = np.zeros((batch, length), bool)
        np.put_along_axis(chosen, smallest(group.draw(WHICH), int(self.rate * length)), True, 1)
        replaced = 1 - self.masked
        found = replace_chosen(group, alphabet, chosen, (self.masked, replaced), alphabet.residues)
        return MaskedGroup(found.tokens[:, :max_tokens], found.labels[:, :max_tokens], found.starts)


@dataclass(frozen=True, slots=True)
class SpanCorruption:
    """Span corruption of T5 with spans of one residue (Raffel et al. 2020, arXiv:1910.10683): ProtT5nv's and Ankh's.

    Of L residues ``round(rate L)`` are hidden, at least one; a half is rounded to the even number, as Python does.
    Each has a sentinel of its own, neighbours too, and only hidden residues are in the target.

    Parameters
    ----------
    rate : float
    """

    rate: float

    # Whether a sequence must be whole when residues are chosen.
    whole: ClassVar[bool] = False

    def count(self, residues: int) -> int:
        """How many of the residues of a sequence are hidden."""
        return min(residues, max(1, round(self.rate * residues)))

    def check(self, residues: int, alphabet: Alphabet) -> None:
        """Check that there are sentinels for the longest sequence.

        Raises
        ------
        UserError
            Says how long it may be.
        """
        if self.count(residues) > len(alphabet.sentinels):
            longest = next(n for n in range(residues, -1, -1) if self.count(n) <= len(alphabet.sentinels))
            raise UserError(
                f"of sequences of {residues} residues {self.count(residues)} are hidden, but the vocabulary has "
                f"{len(alphabet.sentinels)} sentinels; cut sequences to {longest} residues or fewer"
            )

    def hide(self, group: TokenGroup, alphabet: Alphabet, max_tokens: int) -> SpanGroup:
        """Hide residues of a group of sequences."""
        batch, length = group.tokens.shape
        begin, end = len(alphabet.first), length - len(alphabet.last)
        draws = group.draw(WHICH)
        draws[:, :begin] = draws[:, end:] = 1.0
        places = np.sort(smallest(draws, self.count(end - begin)), 1)
        sentinels = np.array(alphabet.sentinels[: places.shape[1]], np.int64)
        source = group.tokens.copy()
        np.put_along_axis(source, places, np.broadcast_to(sentinels, places.shape), 1)
        row = np.empty((batch, 2 * places.shape[1] + 2), np.int64)
        row[:, 0], row[:, -1] = alphabet.start, alphabet.end
        row[:, 1:-1:2] = sentinels
        row[:, 2:-1:2] = np.take_along_axis(group.tokens, places, 1)
        return SpanGroup(source, row[:, :-1], row[:, 1:])


Objective = BertMasks | LegacyMasks | SpanCorruption


def smallest(draws: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` smallest numbers in each row of [B, T], int64 [B, count], in no order."""
    if count == draws.shape[1]:
        return np.broadcast_to(np.arange(count), draws.shape).copy()
    return np.argpartition(draws, count, 1)[:, :count]


def replace_chosen(
    group: TokenGroup, alphabet: Alphabet, chosen: np.ndarray, parts: tuple[float, float], others: np.ndarray
) -> MaskedGroup:
    """Put masks, or one of the `others`, in the place of chosen tokens, bool [B, T]; `parts` are those of each."""
    masked, replaced = parts
    how, what = group.draw(HOW), group.draw(WHAT)
    tokens = np.where(chosen & (how < masked), alphabet.mask, group.tokens)
    changed = chosen & (how >= masked) & (how < masked + replaced)
    tokens[changed] = other_than(group.tokens[changed], others, what[changed])
    return MaskedGroup(tokens, np.where(chosen, group.tokens, IGNORED), group.starts)


def other_than(tokens: np.ndarray, others: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """For each of n tokens one of `others`, but not itself; all alike likely."""
    place = np.argsort(others)[np.searchsorted(np.sort(others), tokens) % len(others)]
    is_one = others[place] == tokens
    drawn = (draws * (len(others) - is_one)).astype(np.int64)
    return others[drawn + (is_one & (drawn >= place))]
