"""Held-out sequences and those of train, by row of the catalog, and how they are searched against each other."""

import os
from dataclasses import dataclass

import numpy as np

from embedome.catalog.rows import canonical_rows, is_canonical
from embedome.catalog.table import read_catalog
from embedome.common.settings import SectionSettings
from embedome.common.terms import REJECTED, TEST, TRAIN, VAL
from embedome.splits.mmseqs import MAX_RESIDUES
from embedome.splits.split_table import read_split_catalog

# MMseqs2's --cov-mode: coverage of the query alone.
QUERY_COVERAGE = 2
# Lengths may differ by more than the coverage that is asked for, as gaps count as covered.
ROUGH_COVERAGE = 0.5
# Candidates of a query that are aligned: MMseqs2's own default. A query may have more leaks than that, so where leaks
# are dropped each further search takes MORE_CANDIDATES times as many.
MAX_CANDIDATES, MORE_CANDIDATES = 300, 10


@dataclass(frozen=True, slots=True)
class SearchSettings(SectionSettings):
    """How held-out sequences are searched against train.

    Parameters
    ----------
    sensitivity : float
        MMseqs2's -s, 1 to 7.5.
    coverage : float
        Smallest fraction of residues in the alignment.
    coverage_mode : int
        MMseqs2's --cov-mode: 0 of both sequences, 1 of the one in train, 2 of the held-out one.
    e_value : float
        Largest E-value.
    """

    sensitivity: float
    coverage: float
    coverage_mode: int
    e_value: float

    @property
    def arguments(self) -> list[str]:
        """The options of MMseqs2."""
        options = {"-s": self.sensitivity, "-c": self.coverage, "--cov-mode": self.coverage_mode, "-e": self.e_value}
        return [text for option, value in options.items() for text in (option, str(value))]

    @property
    def rough_options(self) -> list[str]:
        """MMseqs2's options by which pairs are ruled out; `covers_enough` is the rule itself.

        It rules out by their lengths pairs that cover too little without gaps, which count as covered too.
        """
        return ["-c", str(ROUGH_COVERAGE * self.coverage), "--cov-mode", str(self.coverage_mode)]

    def covers_enough(self, of_query: np.ndarray, of_target: np.ndarray) -> np.ndarray:
        """Return whether alignments cover enough, by the fractions that they cover, bool [n]."""
        asked = {0: (of_query, of_target), 1: (of_target,), QUERY_COVERAGE: (of_query,)}[self.coverage_mode]
        return np.min(asked, axis=0) >= self.coverage


class HeldOut:
    """The splits by row of the catalog, and which rows stand for the distinct sequences of each."""

    def __init__(self, catalog: str | os.PathLike, splits: str | os.PathLike) -> None:
        self.catalog = catalog
        self.canonical = canonical_rows(catalog)
        self.codes = np.concatenate([codes for _, codes in read_split_catalog(catalog, splits, ["id"])])
        self.lengths = np.concatenate([table["length"].to_numpy() for table in read_catalog(catalog, ["length"])])
        self.fits = self.lengths <= MAX_RESIDUES
        # One row of each sequence in each split: the canonical id's, or the first of its duplicates in another split.
        one = is_canonical(self.canonical)
        moved = np.flatnonzero(self.codes != self.codes[self.canonical])
        self.apart = len(moved) > 0
        _, first = np.unique(
            self.canonical[moved].astype(np.int64) * (REJECTED + 1) + self.codes[moved], return_index=True
        )
        one[moved[first]] = True
        self.queries = one & ((self.codes == VAL) | (self.codes == TEST))
        self.train = one & (self.codes == TRAIN)

    def twins(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of val and test whose very sequence train has, and its rows in train."""
        in_train = np.full_like(self.canonical, -1)
        in_train[self.canonical[self.train]] = np.flatnonzero(self.train)
        rows = np.flatnonzero(self.queries)
        twin = in_train[self.canonical[rows]]
        return rows[twin >= 0], twin[twin >= 0]
