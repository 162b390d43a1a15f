"""The batch of a step, as a function of seed and step alone: which sequences, which part of each, what is hidden.

Nothing is kept from one step to the next, so that a run goes on exactly where it was killed, on any number of devices.
An epoch is a permutation of the data set's rows, and epochs follow one upon the other; a step takes the next ones. So
that sequences of one length come together, the rows of some steps are sorted by length, and dealt to these steps in
blocks, in random order. The whole batch is cut into micro-batches of equal cost, which ranks take in turn.

Shapes: n sequences of a step, B of a group, T tokens of each.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from embedome.common.errors import UserError
from embedome.training.alphabet import Alphabet
from embedome.training.counter_random import combine, permute_index, uniform
from embedome.training.objectives import Group, TokenGroup
from embedome.training.recipes import Phase
from embedome.training.store import Store

# Rows that are sorted by length together, and how many blocks of them make up a step.
SORTED_ROWS, BLOCKS = 4096, 4
# Of the counters of random numbers: the order of an epoch, what is hidden of a row, where its window begins.
ORDER, HIDDEN, WINDOW, DEALT = range(4)
# Rows whose lengths are averaged at once.
CHUNK = 1 << 22


class Hides(Protocol):
    """An objective of `objectives`, or another one."""

    @property
    def whole(self) -> bool:
        """Whether a sequence must be whole when residues are chosen."""

    def hide(self, group: TokenGroup, alphabet: Alphabet, max_tokens: int) -> Group:
        """Hide residues of a group of sequences."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Sequences of a step, or some of them, shortest first.

    Parameters
    ----------
    row : numpy.ndarray, dtype=int64, shape=(n,)
        In the store.
    key : numpy.ndarray, dtype=uint64, shape=(n,)
        What the draws of each depend on: seed, epoch and row.
    whole : numpy.ndarray, dtype=int64, shape=(n,)
        Tokens of each sequence, special ones among them.
    start, tokens : numpy.ndarray, dtype=int64, shape=(n,)
        The part of it that is seen.
    """

    row: np.ndarray
    key: np.ndarray
    whole: np.ndarray
    start: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def take(self, which: np.ndarray | slice) -> "Rows":
        """Return some of them."""
        return Rows(self.row[which], self.key[which], self.whole[which], self.start[which], self.tokens[which])


@dataclass(frozen=True, slots=True)
class PhaseRows:
    """A phase in rows.

    Parameters
    ----------
    begin, end : int
        Steps.
    first : int
        Rows taken before it.
    size : int
        Rows of a step.
    window : int or None
    """

    begin: int
    end: int
    first: int
    size: int
    window: int | None

    @property
    def together(self) -> int:
        """Steps whose rows are sorted by length together."""
        return max(1, SORTED_ROWS // self.size)


class Batches:
    """The batches of a run.

    Parameters
    ----------
    store : Store
    objective : Objective
    alphabet : Alphabet
    phases : sequence of Phase
    residues : int
        Of the longest sequence.
    seed : int
    """

    def __init__(
        self, store: Store, objective: Hides, alphabet: Alphabet, phases: Sequence[Phase], residues: int, seed: int
    ) -> None:
        self.store, self.objective, self.alphabet = store, objective, alphabet
        self.residues, self.seed = residues, seed
        self.max_tokens = residues + alphabet.n_special
        self.phases = [*self.plan(phases)]
        # The rows of some steps, found once for all of them.
        self.known: tuple[tuple[int, int], Rows] | None = None

    def plan(self, phases: Sequence[Phase]) -> Iterator[PhaseRows]:
        """Count the rows of phases."""
        begin = first = 0
        for phase in phases:
            size = phase.sequences or max(1, round((phase.tokens or 0) / self.mean_tokens(phase.window)))
            yield PhaseRows(begin, phase.until, first, size, phase.window)
            first += size * (phase.until - begin)
            begin = phase.until

    def mean_tokens(self, window: int | None) -> float:
        """Tokens of a sequence that are seen, in the mean."""
        total = 0
        for start in range(0, len(self.store), CHUNK):
            lengths = np.diff(self.store.offsets[start : start + CHUNK + 1])
            tokens = np.minimum(lengths, self.residues) + self.alphabet.n_special
            total += int(np.minimum(tokens, window or self.max_tokens).sum())
        return total / len(self.store)

    def phase(self, step: int) -> PhaseRows:
        """Return the phase of a step."""
        return next(each for each in self.phases if step < each.end)

    def first_row(self, step: int) -> int:
        """Rows taken before a step, of all epochs."""
        if step >= self.phases[-1].end:
            last = self.phases[-1]
            return last.first + last.size * (last.end - last.begin)
        phase = self.phase(step)
        return phase.first + phase.size * (step - phase.begin)

    def epoch(self, step: int) -> float:
        """Epochs done before a step."""
        return self.first_row(step) / len(self.store)

    def rows(self, step: int) -> Rows:
        """Return the sequences of a step, shortest first."""
        phase = self.phase(step)
        number, place = divmod(step - phase.begin, phase.together)
        begin = phase.begin + number * phase.together
        end = min(begin + phase.together, phase.end)
        if self.known is None or self.known[0] != (begin, end):
            self.known = (begin, end), self.deal_steps(phase, begin, end)
        mine = self.known[1].take(slice(place * phase.size, (place + 1) * phase.size))
        return mine.take(np.argsort(mine.tokens, kind="stable"))

    def deal_steps(self, phase: PhaseRows, begin: int, end: int) -> Rows:
        """Return the rows of some steps, those of each one after the other."""
        number = self.first_row(begin) + np.arange(phase.size * (end - begin))
        rows = self.look_up_rows(number, phase.window)
        if end - begin == 1:
            return rows
        # Within an epoch: none begins before all rows of the one before have been seen.
        epoch = number // len(self.store)
        order = np.lexsort((rows.tokens, epoch))
        place = np.arange(len(order)) // -(-phase.size // BLOCKS)
        return rows.take(order[np.lexsort((uniform(self.seed, DEALT, begin, epoch, place), epoch))])

    def look_up_rows(self, number: np.ndarray, window: int | None) -> Rows:
        """Return the sequences with these numbers, counted through all epochs, and what is seen of each."""
        epoch, index = np.divmod(number, len(self.store))
        row = np.empty_like(index)
        for each in np.unique(epoch):
            mine = epoch == each
            row[mine] = permute_index(index[mine], len(self.store), int(combine(self.seed, ORDER, each)))
        return self.parts(row, combine(self.seed, HIDDEN, epoch, row), window)

    def parts(self, row: np.ndarray, key: np.ndarray, window: int | None) -> Rows:
        """Return the part that is seen of the sequences in these rows."""
        lengths = self.store.lengths(row)
        whole = (lengths if self.objective.whole else np.minimum(lengths, self.residues)) + self.alphabet.n_special
        tokens = whole if window is None else np.minimum(whole, window)
        start = (uniform(key, WINDOW) * (whole - tokens + 1)).astype(np.int64)
        return Rows(row, key, whole, start, tokens)

    def first_rows(self, count: int, tokens: int | None, key: int) -> Rows:
        """Return the first tokens of the store's first sequences, shortest first, with draws that depend on the row."""
        row = np.arange(min(count, len(self.store)))
        seen = self.parts(row, combine(key, row), tokens)
        order = np.argsort(seen.tokens, kind="stable")
        return Rows(seen.row, seen.key, seen.whole, np.zeros_like(seen.start), seen.tokens).take(order)

    def groups(self, rows: Rows) -> list[Group]:
        """Return what a model is given of sequences, shortest first, and has to guess: a group for each length."""
        ends = [*(np.flatnonzero(np.diff(rows.tokens)) + 1).tolist(), len(rows)]
        return [self.group(rows.take(slice(begin, end))) for begin, end in pairwise([0, *ends]) if end > begin]

    def group(self, rows: Rows) -> Group:
        """Return what there is of sequences of one length."""
        tokens = TokenGroup(self.tokens(rows), rows.start, rows.key)
        return self.objective.hide(tokens, self.alphabet, self.max_tokens)

    def tokens(self, rows: Rows) -> np.ndarray:
        """Return the tokens that are seen of sequences of one length, int64 [B, T]."""
        alphabet, residues = self.alphabet, self.store.residues
        position = rows.start[:, None] + np.arange(rows.tokens[0])
        place = self.store.offsets[rows.row][:, None] + position - len(alphabet.first)
        tokens = alphabet.table[residues[np.clip(place, 0, len(residues) - 1)]]
        if alphabet.first:
            tokens[position == 0] = alphabet.first[0]
        if alphabet.last:
            tokens[position == rows.whole[:, None] - 1] = alphabet.last[0]
        return tokens


def deal(tokens: np.ndarray, ranks: int, budget: int, width: int) -> list[list[slice]]:
    """Cut a batch, shortest first, into micro-batches of equal cost, as many for each rank.

    Parameters
    ----------
    tokens : numpy.ndarray, dtype=int64, shape=(n,)
    ranks : int
    budget : int
        Tokens of a micro-batch, about, if its sequences are short.
    width : int
        The model's dimension D: a token costs as much as ``1 + L / 6D``, for 24 D^2 operations of linear layers and
        4 L D of attention.

    Returns
    -------
    list of list of slice
        Of each rank.

    Raises
    ------
    UserError
        Where there are fewer sequences than ranks.
    """
    if len(tokens) < ranks:
        raise UserError(f"a step has {len(tokens)} sequences; expected as many as ranks, {ranks}, or more")
    ends = np.cumsum(tokens * (1 + tokens / (6 * width)))
    count = min(ranks * math.ceil(ends[-1] / (ranks * budget)), len(tokens) // ranks * ranks)
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, count) / count)
    # Each with a sequence.
    spare = np.arange(1, count)
    cuts = np.minimum(np.maximum.accumulate(np.maximum(cuts, spare) - spare) + spare, len(tokens) - count + spare)
    pieces = [slice(begin, end) for begin, end in pairwise([0, *cuts.tolist(), len(tokens)])]
    return [pieces[rank::ranks] for rank in range(ranks)]
