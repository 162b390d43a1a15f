"""What heads are trained on and scored by: features and labels of the same proteins, read a few at a time.

Shapes: n proteins, T labels (of residues that were used, or one for each protein), B proteins of a chunk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embedome.evaluation.examples import ExampleSet
from embedome.evaluation.features import Features
from embedome.evaluation.tasks import NUMBERS, RESIDUE

# Rows that go through a head at once, padding among them: bounds its memory.
CHUNK_ROWS = 16_384
# Labels that are held at once where single vectors are read.
BLOCK_LABELS = 65_536


class Chunk(NamedTuple):
    """Proteins that go through a head at once."""

    features: Tensor
    """float32 [B, L, D], zeros beyond a protein's end."""
    lengths: Tensor
    """int64 [B]"""
    targets: Tensor
    """[T] or [T, C], protein after protein."""
    mask: Tensor
    """bool [T], which of them count."""


@dataclass(frozen=True)
class HeadData:
    """Features and labels of a task.

    Parameters
    ----------
    features : Features
    examples : ExampleSet
        Of the same proteins, in the same order.
    """

    features: Features
    examples: ExampleSet

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each protein's labels begin, int64 [n + 1]."""
        return self.examples.offsets

    @property
    def by_residue(self) -> bool:
        """Whether residues have labels."""
        return self.examples.labelling.level == RESIDUE

    def labels(self, index: int) -> slice:
        """Return which labels of all are a protein's: of its residues that were used, or its own."""
        begin = int(self.offsets[index])
        return slice(begin, begin + (int(self.features.counts[index]) if self.by_residue else 1))

    def of_split(self, split: str) -> np.ndarray:
        """Return the proteins of a split that have features and a label that counts, int64 indices."""
        mine = self.examples.of_split(split)
        counts = [self.features.counts[each] > 0 and self.examples.mask[self.labels(each)].any() for each in mine]
        return mine[np.array(counts, bool)]

    def targets(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels of proteins, one after the other, and which of them count, bool [T]."""
        parts = [self.labels(each) for each in indices]
        return (
            np.concatenate([self.examples.targets[part] for part in parts]),
            np.concatenate([self.examples.mask[part] for part in parts]),
        )

    def n_labels(self, indices: Sequence[int] | np.ndarray) -> int:
        """Count the labels of proteins that count."""
        return sum(int(self.examples.mask[self.labels(each)].sum()) for each in indices)

    def micro_batches(
        self, indices: np.ndarray, edge: int = 0, alone: bool = False
    ) -> Iterator[list[tuple[np.ndarray, Chunk]]]:
        """Yield what `chunks` yields, in lists of those that share a graph: of frozen features each by itself."""
        for each in self.chunks(indices, edge, alone):
            yield [each]

    def chunks(self, indices: np.ndarray, edge: int = 0, alone: bool = False) -> Iterator[tuple[np.ndarray, Chunk]]:
        """Yield proteins in chunks of similar length, shortest first, with their indices.

        Parameters
        ----------
        indices : numpy.ndarray, dtype=int64
        edge : int
            Rows of zeros that follow the longest.
        alone : bool
            One protein at a time.
        """
        rows = self.rows(indices)
        order = np.argsort(rows, kind="stable")
        begin = 0
        for end in range(1, len(order) + 1):
            longest = 0 if end == len(order) else rows[order[end]] + edge
            if alone or end == len(order) or longest * (end - begin + 1) > CHUNK_ROWS:
                mine = indices[order[begin:end]]
                yield mine, self.chunk(mine, edge)
                begin = end

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows of features of each protein, int64."""
        counts = self.features.counts[indices].astype(np.int64)
        return counts if self.features.level == RESIDUE else np.ones(len(indices), np.int64)

    def chunk(self, indices: np.ndarray, edge: int) -> Chunk:
        """Read proteins."""
        rows = self.rows(indices)
        features = np.zeros((len(indices), int(rows.max()) + edge, self.features.dimension), np.float32)
        for place, index in enumerate(indices):
            features[place, : rows[place]] = self.features.of_protein(index)
        return self.join_chunk(torch.from_numpy(features), torch.from_numpy(rows), indices)

    def join_chunk(self, features: Tensor, rows: Tensor, indices: np.ndarray) -> Chunk:
        """Put features [B, L, D] of proteins and their labels together."""
        targets, mask = self.targets(indices)
        if self.examples.labelling.kind == NUMBERS:
            targets = targets.astype(np.float32)
        return Chunk(features, rows, torch.from_numpy(targets), torch.from_numpy(mask))

    def all_vectors(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the vectors of proteins, one protein after the other, float64 [T, D], in blocks of bounded size."""
        ends = np.cumsum(self.rows(indices))
        for mine in np.split(indices, np.flatnonzero(np.diff(ends // BLOCK_LABELS)) + 1):
            yield np.concatenate([self.features.of_protein(each) for each in mine]).astype(np.float64)

    def vectors(self, indices: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield vectors that have a label that counts, float32 [T, D], and the labels, in blocks of bounded size."""
        held: list[tuple[np.ndarray, np.ndarray]] = []
        size = 0
        for index in indices:
            part = self.labels(index)
            mask = self.examples.mask[part]
            held.append((self.features.of_protein(index)[mask], self.examples.targets[part][mask]))
            size += int(mask.sum())
            if size >= BLOCK_LABELS:
                yield join(held)
                held, size = [], 0
        if held:
            yield join(held)


def join(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Join vectors and labels of proteins."""
    vectors, targets = zip(*parts, strict=True)
    return np.concatenate(vectors).astype(np.float32), np.concatenate(targets)
