"""Val and test, searched against train by MMseqs2."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedome.catalog.rows import canonical_rows, is_canonical
from embedome.catalog.table import read_catalog
from embedome.common.settings import from_section
from embedome.common.terms import REJECTED, TEST, TRAIN, VAL
from embedome.splits.mmseqs import Mmseqs, index_bytes, read_table, word_length
from embedome.splits.split_table import read_split_catalog

log = logging.getLogger(__name__)


HITS = {
    "query": pa.int64(),
    "target": pa.int64(),
    "nident": pa.int64(),
    "alnlen": pa.int64(),
    "qcov": pa.float64(),
    "tcov": pa.float64(),
    "evalue": pa.float64(),
    "bits": pa.float64(),
}
# CPU seconds of a search: whatever its size, per residue of the targets, per residue of the queries, and per pair of
# residues of both (version 14, sensitivity 5.7: 7 to 45 s for 20 and 988 proteins against 4,700 to 75,000).
SEARCH_S, TARGET_RESIDUE_S, QUERY_RESIDUE_S, RESIDUE_PAIR_S = 5.0, 1e-6, 1.3e-5, 1.8e-12


# Candidates of a query that are aligned: MMseqs2's own default. Where leaks are dropped there may be more of them than
# that: each further search takes so many times as many.
MAX_CANDIDATES, MORE_CANDIDATES = 300, 10


@dataclass(frozen=True, slots=True)
class SearchSettings:
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

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> "SearchSettings":
        """Take the settings of the configuration's section ``leakage``."""
        return from_section(cls, section)

    @property
    def arguments(self) -> list[str]:
        """As MMseqs2 is given them."""
        options = {"-s": self.sensitivity, "-c": self.coverage, "--cov-mode": self.coverage_mode, "-e": self.e_value}
        return [text for option, value in options.items() for text in (option, str(value))]


class HeldOut:
    """The splits by row of the catalog, and which rows stand for the distinct sequences of each."""

    def __init__(self, catalog: str | os.PathLike, splits: str | os.PathLike) -> None:
        self.catalog = catalog
        self.canonical = canonical_rows(catalog)
        self.codes = np.concatenate([codes for _, codes in read_split_catalog(catalog, splits, ["id"])])
        # One row of each sequence in each split: the canonical id's, or the first of duplicates that are apart from it.
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
        """Rows of val and test whose very sequence train has, and its rows there."""
        in_train = np.full_like(self.canonical, -1)
        in_train[self.canonical[self.train]] = np.flatnonzero(self.train)
        rows = np.flatnonzero(self.queries)
        twin = in_train[self.canonical[rows]]
        return rows[twin >= 0], twin[twin >= 0]


def search(
    held: HeldOut, targets: np.ndarray, plan: SearchSettings, folder: Path, mmseqs: Mmseqs, candidates: int
) -> Iterator[dict[str, np.ndarray]]:
    """Search val and test against rows of the catalog; yield hits, those of a query in a row, with their `identity`."""
    lengths = np.concatenate([table["length"].to_numpy() for table in read_catalog(held.catalog, ["length"])])
    n_query, n_target = (int(lengths[rows].sum()) for rows in (held.queries, targets))
    if not n_query or not n_target:
        return
    log.info("%s", forecast(held, targets, n_query, n_target, mmseqs.threads))
    # MMseqs2 takes up what it finds in its working folder: each search has its own.
    place = folder / f"search-{candidates}"
    place.mkdir()
    query, target, result, table = (place / name for name in ("query", "target", "result", "hits.tsv"))
    for database, rows in ((query, held.queries), (target, targets)):
        mmseqs.make_database(held.catalog, rows, database)
    threads = ["--threads", str(mmseqs.threads)]
    options = ["-k", str(word_length(n_target)), "--max-seqs", str(candidates), *threads, *mmseqs.memory_limit]
    # -a: alignments with all their columns, for the number of identical residues.
    mmseqs.run(
        "search", query, target, result, place / "work", *plan.arguments, *options, "-a", "--remove-tmp-files", "1"
    )
    mmseqs.run("convertalis", query, target, result, table, "--format-output", ",".join(HITS), *threads)
    for batch in read_table(table, HITS):
        hits = {name: batch[name].to_numpy() for name in HITS}
        yield {**hits, "identity": hits["nident"] / hits["alnlen"]}
    shutil.rmtree(place)


def forecast(held: HeldOut, targets: np.ndarray, n_query: int, n_target: int, threads: int) -> str:
    """What a search will take, in words."""
    seconds = SEARCH_S + TARGET_RESIDUE_S * n_target + (QUERY_RESIDUE_S + RESIDUE_PAIR_S * n_target) * n_query
    gb = index_bytes(n_target) / 1e9
    return (
        f"searching {held.queries.sum():,} sequences of val and test against {targets.sum():,} of train: about "
        f"{seconds / threads / 3600:.2f} hours on {threads} threads and {gb:.1f} GB are expected; "
        "with less memory it works in pieces"
    )
