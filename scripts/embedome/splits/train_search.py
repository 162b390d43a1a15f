"""Held-out sequences aligned with those of train, by MMseqs2: with all of them, or with those that words find.

MMseqs2 finds relatives by words, and takes none out of repetitive stretches of train; so those that have few words are
aligned with every held-out sequence. Scores are those of BLOSUM62 alone, not corrected for composition.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from embedome.splits.held_out import QUERY_COVERAGE, HeldOut, SearchSettings
from embedome.splits.mmseqs import PLAIN_SCORES, Mmseqs, NoWordsError, index_bytes, read_table, word_length

log = logging.getLogger(__name__)

HITS = {
    "query": pa.int64(),
    "target": pa.int64(),
    "nident": pa.int64(),
    "alnlen": pa.int64(),
    "qstart": pa.int64(),
    "qend": pa.int64(),
    "qlen": pa.int64(),
    "tstart": pa.int64(),
    "tend": pa.int64(),
    "tlen": pa.int64(),
    "evalue": pa.float64(),
    "bits": pa.float64(),
}
# An alignment with all its columns, for the number of identical residues.
WITH_COLUMNS = ("-a",)
# Held-out by train residues up to which all pairs are compared: it takes some 4 minutes of a core.
ALL_PAIRS = 10**13
# A sequence is compared with all others where fewer residues of an alignment than these, or than half of it, are sure
# to be in words.
SURE_RESIDUES = 50
# Fraction of a sequence that an alignment is taken to cover, where coverage asks for less.
LEAST_COVERAGE = 0.5
# CPU seconds of a search by words: whatever its size, per residue of the targets, per residue of the queries, and per
# pair of residues of both (version 14, sensitivity 5.7: 7 to 45 s for 20 and 988 proteins against 4,700 to 75,000).
SEARCH_S, TARGET_RESIDUE_S, QUERY_RESIDUE_S, RESIDUE_PAIR_S = 5.0, 1e-6, 1.3e-5, 1.8e-12
# Per pair of residues where all pairs are compared; less where lengths rule pairs out.
COMPARED_PAIR_S = 2.7e-11


def search(
    held: HeldOut, targets: np.ndarray, plan: SearchSettings, folder: Path, mmseqs: Mmseqs, candidates: int
) -> Iterator[dict[str, np.ndarray]]:
    """Search val and test against rows of the catalog; yield hits, those of a query in a row; a pair may come twice.

    Parameters
    ----------
    held : HeldOut
    targets : numpy.ndarray, dtype=bool, shape=(n,)
        Rows of the catalog to search.
    plan : SearchSettings
    folder : path
        For databases and results while they are needed.
    mmseqs : Mmseqs
    candidates : int
        Targets that a query is aligned with, at most: those that look most alike.

    Yields
    ------
    dict of arrays
        `HITS` and `identity`.
    """
    queries, targets = held.queries & held.fits, targets & held.fits
    if not queries.any() or not targets.any():
        return
    # MMseqs2 takes up what it finds in its working folder: each search has its own.
    place = folder / f"search-{candidates}"
    place.mkdir()
    yield from TrainSearch(held, queries, targets, plan, place, mmseqs, candidates).hits()
    shutil.rmtree(place)


@dataclass(frozen=True, slots=True)
class TrainSearch:
    """One search of held-out sequences against some of train; parameters as of `search`."""

    held: HeldOut
    queries: np.ndarray
    targets: np.ndarray
    plan: SearchSettings
    folder: Path
    mmseqs: Mmseqs
    candidates: int

    def hits(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield hits."""
        n_query, n_target = (int(self.held.lengths[rows].sum()) for rows in (self.queries, self.targets))
        self.mmseqs.make_database(self.held.catalog, self.queries, self.query)
        self.mmseqs.make_database(self.held.catalog, self.targets, self.target)
        if n_query * n_target <= ALL_PAIRS:
            self.announce(COMPARED_PAIR_S * n_query * n_target, n_target / 1e9)
            lists: Iterable[Path] = [self.all_pairs(self.query, self.target)]
        else:
            by_residue = (QUERY_RESIDUE_S + RESIDUE_PAIR_S * n_target) * n_query
            self.announce(SEARCH_S + TARGET_RESIDUE_S * n_target + by_residue, index_bytes(n_target) / 1e9)
            lists = self.likely_pairs(n_query, n_target)
        for pairs in lists:
            yield from self.align(pairs)

    @property
    def query(self) -> Path:
        """Database of the queries."""
        return self.folder / "query"

    @property
    def target(self) -> Path:
        """Database of the targets."""
        return self.folder / "target"

    @property
    def options(self) -> list[str]:
        """Options of all modules."""
        return [*self.plan.rough_options, *PLAIN_SCORES, "--threads", str(self.mmseqs.threads)]

    def likely_pairs(self, n_query: int, n_target: int) -> Iterator[Path]:
        """Yield lists of pairs to align: those that words find, and all of sequences that have few words."""
        pairs = self.folder / "words"
        options = [*self.options, *self.mmseqs.memory_limit, "--max-seqs", str(self.candidates)]
        options += ["-s", str(self.plan.sensitivity), "-k", str(word_length(n_target))]
        try:
            self.mmseqs.run("prefilter", self.query, self.target, pairs, *options)
            yield pairs
        except NoWordsError:
            log.info("no sequence of train has a word")
        if self.plan.coverage_mode == QUERY_COVERAGE:
            scarce = self.subset_of_few_words(self.query, self.queries, n_target)
            yield from [self.all_pairs(scarce, self.target)] if scarce else []
        else:
            scarce = self.subset_of_few_words(self.target, self.targets, n_query)
            yield from [self.all_pairs(self.query, scarce)] if scarce else []

    def subset_of_few_words(self, database: Path, rows: np.ndarray, n_other: int) -> Path | None:
        """Make a database of those sequences that have few words; return None without any."""
        lengths = self.held.lengths[rows]
        scarce = has_few_words(lengths, self.mmseqs.residues_in_words(database), self.plan.coverage)
        if not scarce.any():
            return None
        hours = COMPARED_PAIR_S * n_other * int(lengths[scarce].sum()) / self.mmseqs.threads / 3600
        log.info("%s sequences of few words are compared with all: %.2f hours at most", f"{scarce.sum():,}", hours)
        return self.mmseqs.make_subset(database, np.flatnonzero(scarce), self.folder / "scarce")

    def all_pairs(self, query: Path, target: Path) -> Path:
        """List the pairs of the best alignments without gaps, of all pairs."""
        pairs = self.folder / "compared"
        options = [*self.options, "-e", "inf", "--max-seqs", str(self.candidates)]
        self.mmseqs.run("ungappedprefilter", query, target, pairs, *options)
        return pairs

    def align(self, pairs: Path) -> Iterator[dict[str, np.ndarray]]:
        """Align pairs and yield hits."""
        result, table = (pairs.with_name(f"{pairs.name}.{name}") for name in ("aligned", "tsv"))
        options = [*self.options, "-e", str(self.plan.e_value), *WITH_COLUMNS]
        self.mmseqs.run("align", self.query, self.target, pairs, result, *options)
        yield from read_hits(self.mmseqs, self.query, self.target, result, table, self.plan)

    def announce(self, seconds: float, gb: float) -> None:
        """Log what the search is expected to take."""
        log.info(
            "searching %s sequences of val and test against %s of train: about %.2f hours on %s threads and %.1f GB "
            "are expected; with less memory it works in pieces",
            f"{self.queries.sum():,}", f"{self.targets.sum():,}", seconds / self.mmseqs.threads / 3600,
            self.mmseqs.threads, gb,
        )  # fmt: skip


def has_few_words(lengths: np.ndarray, in_words: np.ndarray, coverage: float) -> np.ndarray:
    """Return whether an alignment that covers `coverage` of a sequence may have few residues in words, bool [n]."""
    aligned = max(coverage, LEAST_COVERAGE) * lengths
    return aligned - (lengths - in_words) < np.maximum(SURE_RESIDUES, aligned / 2)


def find_unsearchable(held: HeldOut, plan: SearchSettings, folder: Path, mmseqs: Mmseqs) -> np.ndarray:
    """Return which sequences of val and test would not be found in train if it had them; dtype=bool, shape (n,).

    They are aligned with themselves. MMseqs2 finds no alignment of unknown residues alone; ends one at a score of 2^15,
    that of some 6,400 identical residues; takes no sequence of more than `MAX_RESIDUES`; and where train is large, the
    E-value of a short sequence is above the limit even for itself.
    """
    found, queries = np.zeros(len(held.codes), bool), held.queries & held.fits
    n_query, n_target = (int(held.lengths[rows].sum()) for rows in (queries, held.train & held.fits))
    if n_query:
        place = folder / "themselves"
        place.mkdir()
        query, result, table = (place / name for name in ("query", "result", "hits.tsv"))
        mmseqs.make_database(held.catalog, queries, query)
        # Another database: what is aligned with its own entry is always accepted.
        keys = np.arange(queries.sum())
        same, pairs = mmseqs.make_subset(query, keys, place / "same"), mmseqs.make_pairs(keys, keys, place / "pairs")
        options = [*PLAIN_SCORES, "-e", "inf", *WITH_COLUMNS, "--threads", str(mmseqs.threads)]
        mmseqs.run("align", query, same, pairs, result, *options)
        for hits in read_hits(mmseqs, query, same, result, table, plan):
            # E-values grow with what is searched.
            found[hits["query"][hits["evalue"] * n_target <= plan.e_value * n_query]] = True
        shutil.rmtree(place)
    return held.queries & ~found


def read_hits(
    mmseqs: Mmseqs, query: Path, target: Path, result: Path, table: Path, plan: SearchSettings
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the alignments of a result that cover enough, with their `identity`, `coverage` and `target_coverage`."""
    columns = ["--format-output", ",".join(HITS), "--threads", str(mmseqs.threads)]
    mmseqs.run("convertalis", query, target, result, table, *columns)
    for batch in read_table(table, HITS):
        hits = {name: batch[name].to_numpy() for name in HITS}
        hits["coverage"] = (hits["qend"] - hits["qstart"] + 1) / hits["qlen"]
        hits["target_coverage"] = (hits["tend"] - hits["tstart"] + 1) / hits["tlen"]
        # Of unknown residues alone there are alignments of no columns.
        kept = plan.covers_enough(hits["coverage"], hits["target_coverage"]) & (hits["alnlen"] > 0)
        hits = {name: values[kept] for name, values in hits.items()}
        yield {**hits, "identity": hits["nident"] / hits["alnlen"]}
