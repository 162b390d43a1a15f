"""Distributions of sequence lengths, as histograms: of files, of a catalog, or of UniRef50 by a formula."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from embedome.catalog.table import read_catalog
from embedome.common.errors import UserError
from embedome.sequences.fasta import read_entries

# UniRef50 of 2026: clusters. Lengths are log-normal with these parameters, fitted to the mean of 286 residues and the
# 88.5 % that have at most 512 (docs/performance.md).
UNIREF50_SEQUENCES = 60_315_044
MU, SIGMA = 5.428, 0.675
SHORTEST, LONGEST = 11, 35_000


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many sequences there are of each length.

    Parameters
    ----------
    length : numpy.ndarray, dtype=int64, shape=(k,)
        Residues, ascending.
    count : numpy.ndarray, dtype=int64, shape=(k,)
        Sequences.
    """

    length: np.ndarray
    count: np.ndarray

    @classmethod
    def tally(cls, lengths: Iterable[int]) -> "Lengths":
        """Count lengths."""
        found = sorted(Counter(lengths).items())
        return cls(*np.array(found, np.int64).reshape(-1, 2).T)

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return int(self.count.sum())

    @property
    def residues(self) -> int:
        """Number of residues."""
        return int((self.length * self.count).sum())

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Draw lengths at random, int64 [size]."""
        return rng.choice(self.length, size, p=self.count / self.count.sum())


def fasta_lengths(paths: Sequence[str | os.PathLike]) -> Lengths:
    """Count the lengths of the records of FASTA files, whatever is in them.

    Raises
    ------
    UserError
        Where a file is missing or is no FASTA, or holds no sequence.
    """
    found = Lengths.tally(len(b"".join(entry.body.split())) for path in paths for entry in read_entries(path))
    if not found.sequences:
        raise UserError(f"{', '.join(map(str, paths))}: no sequence")
    return found


def catalog_lengths(folder: str | os.PathLike) -> Lengths:
    """Count the lengths of the distinct sequences of a catalog."""
    tables = read_catalog(folder, ["length", "duplicate_of"])
    return Lengths.tally(
        length
        for table in tables
        for length in table.filter(table["duplicate_of"].is_null())["length"].to_numpy().tolist()
    )


def uniref50_lengths(sequences: int = UNIREF50_SEQUENCES) -> Lengths:
    """Return the lengths of `sequences` sequences as in UniRef50, by the fitted log-normal distribution."""
    edges = np.arange(SHORTEST, LONGEST + 2) - 0.5
    below = np.array([0.5 * (1 + math.erf((math.log(edge) - MU) / (SIGMA * math.sqrt(2)))) for edge in edges])
    # Rounding the running total, so that the counts add up.
    share = (below - below[0]) / (below[-1] - below[0])
    count = np.diff(np.rint(share * sequences).astype(np.int64))
    found = np.flatnonzero(count)
    return Lengths(found + SHORTEST, count[found])
