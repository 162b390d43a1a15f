"""The groups of a micro-batch as tensors on a device, brought there by one copy.

Shapes: B sequences of a group, T tokens of each, N labels of a micro-batch, n of them hidden residues.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embedome.engine.device import copy_to_device
from embedome.training.objectives import IGNORED, Group, MaskedGroup, SpanGroup


class MaskedBatch(NamedTuple):
    """Groups of a masked language model."""

    tokens: list[Tensor]
    """int64 [B, T] each."""
    starts: list[Tensor | None]
    """int64 [B], position of each sequence's first token; None where all are 0."""
    hidden: Tensor
    """int64 [N], places of hidden tokens in the row of all tokens."""
    labels: Tensor
    """int64 [N], what they were."""
    places: Tensor
    """int64 [N], their places in the row of all groups' tables [B, width] of hidden residues."""
    widths: list[int]
    """Hidden residues of the sequence of a group that has most."""


class SpanBatch(NamedTuple):
    """Groups of an encoder-decoder."""

    sources: list[Tensor]
    """int64 [B, T] each."""
    targets: list[Tensor]
    """int64 [B, U] each, what the decoder is given."""
    labels: Tensor
    """int64 [N], of all groups in a row."""
    residues: Tensor
    """int64 [n], which labels are hidden residues, and no sentinel or end."""


DeviceBatch = MaskedBatch | SpanBatch


def to_device(groups: Sequence[Group], device: torch.device) -> DeviceBatch:
    """Copy the groups of a micro-batch to a device."""
    masked = [group for group in groups if isinstance(group, MaskedGroup)]
    if masked:
        return masked_to_device(masked, device)
    return spans_to_device([group for group in groups if isinstance(group, SpanGroup)], device)


def masked_to_device(groups: Sequence[MaskedGroup], device: torch.device) -> MaskedBatch:
    """Copy groups of masked sequences to a device."""
    labels = np.concatenate([group.labels.ravel() for group in groups])
    hidden = np.flatnonzero(labels != IGNORED)
    moved = [group.starts if group.starts.any() else np.zeros(0, np.int64) for group in groups]
    # Which hidden residue of its sequence each token is, if it is one.
    ranks = [np.cumsum(group.labels != IGNORED, 1) for group in groups]
    widths = [int(rank[:, -1].max()) for rank in ranks]
    firsts = np.cumsum([0, *(len(rank) * width for rank, width in zip(ranks, widths, strict=True))])
    parts = zip(ranks, widths, firsts, strict=False)
    places = [first + width * np.arange(len(rank))[:, None] + rank - 1 for rank, width, first in parts]
    arrays = [*(group.tokens for group in groups), *moved, hidden, labels[hidden]]
    tensors = copy_all([*arrays, np.concatenate([place.ravel() for place in places])[hidden]], device)
    count = len(groups)
    starts = [start if len(start) else None for start in tensors[count : 2 * count]]
    found, targets, rows = tensors[2 * count :]
    return MaskedBatch(tensors[:count], starts, found, targets, rows, widths)


def spans_to_device(groups: Sequence[SpanGroup], device: torch.device) -> SpanBatch:
    """Copy groups of an encoder-decoder to a device."""
    labels = np.concatenate([group.labels.ravel() for group in groups])
    odd = [np.tile(np.arange(group.labels.shape[1]) % 2 == 1, len(group.labels)) for group in groups]
    arrays = [group.source for group in groups] + [group.decoder for group in groups]
    tensors = copy_all([*arrays, labels, np.flatnonzero(np.concatenate(odd))], device)
    count = len(groups)
    return SpanBatch(tensors[:count], tensors[count : 2 * count], *tensors[2 * count :])


def copy_all(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Copy arrays of int64 to a device at once: each copy by itself would cost as much as a small kernel."""
    row = copy_to_device(np.concatenate([array.ravel() for array in arrays]), device)
    parts = row.split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]
