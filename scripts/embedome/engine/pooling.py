"""What becomes of hidden states: pooled vectors, and the states of each residue.

Shapes: n sequences, p windows, B windows of a batch, T tokens and L residues of each, K layers, D dimension.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embedome.common.terms import FIRST, MAX, MEAN, vector_names
from embedome.engine.batch_layout import BatchLayout, Group
from embedome.engine.device import HostCopy, copy_to_device
from embedome.models.encoders.grouped import join

# Rows rounded at once by `narrow`: they stay in the cache.
NARROWED_ROWS = 64


class PooledVectors:
    """Pooled hidden states of windows, kept on the device until all are computed.

    Every window has a row of its own, so that nothing depends on the order in which batches are run.

    Parameters
    ----------
    layers : sequence of int
        Their numbers.
    poolings : sequence of str
        Of `terms.POOLINGS`. ``mean`` and ``max`` are over residues, ``first`` is the token before them.
    layout : BatchLayout
    dimension : int
    device : torch.device
    """

    def __init__(
        self,
        layers: Sequence[int],
        poolings: Sequence[str],
        layout: BatchLayout,
        dimension: int,
        device: torch.device,
    ) -> None:
        self.counts, self.used = layout.windows.counts, layout.used
        self.names = vector_names(layers, poolings)
        self.rows = {
            layer: {name: torch.zeros(len(layout.order), dimension, device=device) for name in poolings}
            for layer in layers
        }

    def add(self, layer: int, batch: Tensor, tokens: Tensor, residues: Tensor, weights: Tensor | None) -> None:
        """Pool the hidden states of a batch after a layer, in float32.

        Parameters
        ----------
        layer : int
        batch : torch.Tensor, dtype=int64, shape=(B,)
            Which windows.
        tokens, residues : torch.Tensor, shapes=(B, T, D), (B, L, D)
            Hidden states of all tokens and of the residues among them.
        weights : torch.Tensor, dtype=float32, shape=(B, L), optional
            Of residues in a mean; 1 where not given.
        """
        for name, rows in self.rows[layer].items():
            if name == MAX:
                rows[batch] = residues.amax(1).float()
            elif name == FIRST:
                rows[batch] = tokens[:, 0].float()
            elif weights is None:
                rows[batch] = residues.sum(1, dtype=torch.float32)
            else:
                rows[batch] = torch.einsum("bld,bl->bd", residues.float(), weights)

    def fetch(self) -> dict[str, HostCopy]:
        """Begin to copy sequences' vectors to the host, float16 [n, D], by name; what overflows is infinite."""
        joined = [self.join(name, rows).half() for layer in self.rows.values() for name, rows in layer.items()]
        return dict(zip(self.names, map(HostCopy, joined), strict=True))

    def join(self, name: str, rows: Tensor) -> Tensor:
        """Make one row of each sequence's windows, float32 [n, D]."""
        if len(self.counts) != len(rows) or (self.counts != 1).any():
            counts = copy_to_device(self.counts, rows.device)
            if name == FIRST:
                rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])  # for sequences without any window
                rows = rows[(counts.cumsum(0) - counts).clamp(max=len(rows) - 1)]
            else:
                # In the windows' order; adding up by index would be in any order on a GPU.
                rows = torch.segment_reduce(rows, "max" if name == MAX else "sum", lengths=counts, unsafe=True)
        if name == MEAN:
            rows /= copy_to_device(np.maximum(self.used, 1), rows.device).float()[:, None]
        return rows


class Fetched(NamedTuple):
    """Hidden states of a batch's residues after a layer, on their way to the host."""

    place: int
    """Of the layer among those that are asked for."""
    begins: np.ndarray
    """int64 [B], the row of each window's first residue among all states."""
    lengths: np.ndarray
    """int64 [B], residues of each window."""
    states: HostCopy
    """[residues of all windows, D]"""


class ResidueStates:
    """Hidden states of residues, collected in the host's memory in the order of the sequences.

    They take 2 bytes a number, or where a sequence has several windows, whose states are added up, 4.

    Parameters
    ----------
    layout : BatchLayout
    dimension : int
    layers : sequence of int
        Their numbers.
    """

    def __init__(self, layout: BatchLayout, dimension: int, layers: Sequence[int] = (0,)) -> None:
        windows = layout.windows
        self.offsets = np.concatenate([[0], np.cumsum(np.where(windows.counts > 0, layout.used, 0))])
        self.windowed = bool((windows.counts > 1).any())
        # NumPy asks the kernel for large pages, torch does not: to touch pages of 4 kB first takes six times as long.
        shape = (self.offsets[-1], len(layers), dimension)
        self.states = np.zeros(shape, np.float32 if self.windowed else np.float16)
        self.places = {layer: place for place, layer in enumerate(layers)}
        self.start = self.offsets[windows.owner] + layout.begins
        self.waiting: Sequence[Fetched] = ()

    def fetch(self, layer: int, groups: Sequence[Group], residues: Sequence[Tensor]) -> "Fetched":
        """Begin to copy the hidden states [B, L, D] of a batch's groups to the host, all of them at once."""
        begins = np.concatenate([self.start[group.windows] for group in groups])
        lengths = np.concatenate([np.full(len(each), each.shape[1]) for each in residues])
        return Fetched(self.places[layer], begins, lengths, HostCopy(join(map(self.weigh, groups, residues))))

    def weigh(self, group: Group, residues: Tensor) -> Tensor:
        """Return what is kept of a group's hidden states: as they are, or what each adds to its residue's mean."""
        if not self.windowed:
            return residues.half()
        return residues.float() if group.weights is None else residues.float() * group.weights[:, :, None]

    def keep(self, fetched: Sequence["Fetched"]) -> None:
        """Take a batch's states after each layer; from a GPU they arrive while the next batch is running."""
        self.settle()
        self.waiting = fetched
        if all(each.states.event is None for each in fetched):
            self.settle()

    def settle(self) -> None:
        """Put what has arrived in its place, window by window, which is twice as fast as by an index of rows."""
        for layer in self.waiting:
            found, end = layer.states.wait().numpy(), 0
            for begin, length in zip(layer.begins.tolist(), layer.lengths.tolist(), strict=True):
                place, end = self.states[begin : begin + length, layer.place], end + length
                if self.windowed:
                    place += found[end - length : end]
                else:
                    place[:] = found[end - length : end]
        self.waiting = ()

    def finish(self) -> list[np.ndarray]:
        """Return the states of each sequence, n times float16 [residues used, D]; of several layers [.., K, D]."""
        self.settle()
        states = narrow(self.states) if self.windowed else self.states
        if len(self.places) == 1:
            states = states[:, 0]
        return [states[begin:end] for begin, end in pairwise(self.offsets.tolist())]


def narrow(states: np.ndarray) -> np.ndarray:
    """Round float32 [L, ...] to float16, in the same memory, which must not be used as float32 afterwards.

    Row r is written where row r / 2 was, which has been read by then.
    """
    narrowed = states.reshape(-1).view(np.float16)[: states.size].reshape(states.shape)
    for begin in range(0, len(states), NARROWED_ROWS):
        rows = slice(begin, begin + NARROWED_ROWS)
        # By torch, for which what overflows is infinite without a warning.
        narrowed[rows] = torch.from_numpy(states[rows]).half().numpy()
    return narrowed
