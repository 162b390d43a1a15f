"""How sequences are laid out for the engine: their windows in the order in which they run, tokens back to back.

Array operations by length, and no device: so a part is laid out while the one before it runs.
Shapes: n sequences, p windows, B windows of a batch, R residues of all, T tokens and
L residues of a window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embedome.engine.device import copy_to_device
from embedome.engine.windows import LongPolicy, Sequences, Windows, cut_windows, residue_weights
from embedome.models.tokenizer import ResidueTokenizer


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """Sequences laid out, in the host's memory; every batch is a view of it."""

    begins: np.ndarray
    """int64 [p], where each window begins in its sequence."""
    used: np.ndarray
    """int64 [n], residues of each sequence that go into its vector, if it is not skipped."""
    longer: np.ndarray
    """bool [n], whether a sequence is too long to run as one window."""
    windows: Windows
    order: np.ndarray
    """int64 [p], the windows as they run, longest first."""
    lengths: np.ndarray
    """int64 [p], residues of each, in this order."""
    cuts: np.ndarray
    """int64 [g], where windows of another length begin, and the end."""
    token_ends: np.ndarray
    """int64 [p], where each one's tokens end."""
    tokens: np.ndarray
    weights: np.ndarray | None
    """float32, of residues in a mean; None where all have the same."""

    def tokens_between(self, begin: int, end: int) -> int:
        """Return the tokens of windows `begin` to `end`, in the order in which they run."""
        return int(self.token_ends[end - 1] - (self.token_ends[begin - 1] if begin else 0))


class Group(NamedTuple):
    """Windows of one length in a batch."""

    windows: np.ndarray
    """int64 [B]"""
    places: Tensor
    """The same on the device."""
    tokens: Tensor
    """[B, T], special ones among them."""
    weights: Tensor | None
    """float32 [B, L], of residues in a mean."""


class DeviceLayout:
    """A layout on a device.

    Parameters
    ----------
    layout : BatchLayout
    device : torch.device
    """

    def __init__(self, layout: BatchLayout, device: torch.device) -> None:
        self.layout = layout
        # All at once: for each batch by itself the host would wait until the device is through with it.
        self.places, self.tokens = copy_to_device(layout.order, device), copy_to_device(layout.tokens, device)
        self.weights = None if layout.weights is None else copy_to_device(layout.weights, device)

    def groups(self, begin: int, end: int) -> Iterator[Group]:
        """Yield windows `begin` to `end`, cut where the length changes."""
        layout = self.layout
        inner = slice(*np.searchsorted(layout.cuts, [begin + 1, end]))
        for first, last in pairwise([begin, *layout.cuts[inner].tolist(), end]):
            count, stop = last - first, int(layout.token_ends[last - 1])
            tokens = self.tokens[stop - layout.tokens_between(first, last) : stop].view(count, -1)
            weights = None
            if self.weights is not None:
                length = int(layout.lengths[first])
                # `weights` has no special tokens: subtract those of all windows before this one.
                stop -= last * (tokens.shape[1] - length)
                weights = self.weights[stop - count * length : stop].view(count, length)
            yield Group(layout.order[first:last], self.places[first:last], tokens, weights)


def lay_out(sequences: Sequences, tokenizer: ResidueTokenizer, policy: LongPolicy, longest: int) -> BatchLayout:
    """Lay out sequences of one residue or more for a model that takes at most `longest` residues at once."""
    windows, lengths = cut_windows(sequences, policy, longest), sequences.lengths
    order = np.argsort(-windows.length, kind="stable")
    sizes, starts = windows.length[order], windows.start[order]
    cuts = np.flatnonzero(np.diff(sizes, append=0)) + 1
    tokens = tokenizer.look_up(sequences.residues, sequences.states)
    weights = residue_weights(sequences, windows)
    return BatchLayout(
        begins=windows.start - sequences.offsets[windows.owner],
        used=lengths if policy.name == "window" else np.minimum(lengths, longest),
        longer=lengths > longest,
        windows=windows,
        order=order,
        lengths=sizes,
        cuts=cuts,
        token_ends=np.cumsum(sizes + tokenizer.n_special),
        tokens=gather(tokens, starts, sizes, cuts, tokenizer.first, tokenizer.last),
        weights=None if weights is None else gather(weights, starts, sizes, cuts),
    )


def gather(
    values: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    cuts: np.ndarray,
    first: Sequence[int] = (),
    last: Sequence[int] = (),
) -> np.ndarray:
    """Copy stretches of an array with a value for each residue [R], back to back; `first` and `last` go around each.

    Parameters
    ----------
    values : numpy.ndarray, shape=(R,)
    starts, lengths : numpy.ndarray, dtype=int64, shape=(p,)
        Of the stretches, in the order that is wanted.
    cuts : numpy.ndarray, dtype=int64, shape=(g,)
        As in `BatchLayout`.
    """
    around = len(first) + len(last)
    found = np.empty(int(lengths.sum()) + around * len(lengths), values.dtype)
    begin = done = 0
    for end in cuts.tolist():
        count, length = end - begin, int(lengths[begin])
        rows = found[done : done + count * (length + around)].reshape(count, -1)
        rows[:, : len(first)] = first
        rows[:, len(first) + length :] = last
        # All stretches of this length, as a view: each row that is taken is then copied as a whole.
        stretches = np.ndarray((len(values) - length + 1, length), values.dtype, values, strides=2 * values.strides)
        rows[:, len(first) : len(first) + length] = stretches[starts[begin:end]]
        begin, done = end, done + rows.size
    return found
