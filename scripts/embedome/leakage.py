"""Leakage: which held-out sequences have relatives in train, by a search of MMseqs2; and train without them.

Memory of this process: some 40 bytes per record; of MMseqs2: what it is given.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.rejects import write_rejects
from embedome.catalog.rows import RowNames, canonical_rows, is_canonical, row_type
from embedome.catalog.table import read_catalog
from embedome.common.atomic_files import atomic_path, scratch_directory
from embedome.common.errors import UserError
from embedome.common.json_files import read_json, write_json
from embedome.common.terms import REJECTED, SPLITS, TEST, TRAIN, VAL
from embedome.mmseqs import Mmseqs, index_bytes, read_table, word_length
from embedome.parquet.writer import ParquetSink
from embedome.split import DROPPED, GROUP_ROWS, read_split_catalog, write_splits

log = logging.getLogger(__name__)


LEAK = "leak"
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LEAKAGE = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("nearest", pa.string()),
        pa.field("identity", pa.float64()),
        pa.field("coverage", pa.float64()),
        pa.field("nearest_coverage", pa.float64()),
        pa.field("e_value", pa.float64()),
        pa.field("bits", pa.float64()),
    ]
)
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
# Candidates of a query that are aligned: MMseqs2's own default. Where leaks are dropped there may be more of them than
# that: each further search takes so many times as many.
MAX_CANDIDATES, MORE_CANDIDATES = 300, 10
# CPU seconds of a search: whatever its size, per residue of the targets, per residue of the queries, and per pair of
# residues of both (version 14, sensitivity 5.7: 7 to 45 s for 20 and 988 proteins against 4,700 to 75,000).
SEARCH_S, TARGET_RESIDUE_S, QUERY_RESIDUE_S, RESIDUE_PAIR_S = 5.0, 1e-6, 1.3e-5, 1.8e-12


@dataclass(frozen=True, slots=True)
class SearchPlan:
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
        """As MMseqs2 is given them."""
        options = {"-s": self.sensitivity, "-c": self.coverage, "--cov-mode": self.coverage_mode, "-e": self.e_value}
        return [text for option, value in options.items() for text in (option, str(value))]


def measure_leakage(
    catalog: str | os.PathLike,
    splits: str | os.PathLike,
    plan: SearchPlan,
    *,
    leakage: str | os.PathLike,
    summary: str | os.PathLike,
    mmseqs: Mmseqs,
) -> dict:
    """Search the sequences of val and test against those of train.

    The identity of a hit is the number of identical residues divided by the columns of the local alignment, gaps
    included (MMseqs2's fident). A sequence that train has itself is a hit of identity 1 whether it is found or not.

    Parameters
    ----------
    catalog, splits : path
        What the filter and split stages wrote.
    plan : SearchPlan
    leakage : path
        Parquet file, a row for each distinct sequence of val and of test in id order: the hit of the highest identity
        (of equal ones that of most bits, then of the smallest id), null where there is none.
    summary : path
        JSON file: of each split, how many sequences have a hit at or above some identities; also returned.
    mmseqs : Mmseqs

    Raises
    ------
    UserError
        Where MMseqs2 fails, and where catalog and splits do not belong together.
    """
    held = Held(catalog, splits)
    nearest = Nearest(held)
    version = mmseqs.version
    with scratch_directory(leakage) as folder:
        for hits in search(held, held.train, plan, folder, mmseqs, MAX_CANDIDATES):
            nearest.add(hits)
    nearest.add_twins()
    write_nearest(held, nearest, leakage)
    result = {
        "format": 1,
        "program": "MMseqs2",
        "version": version,
        "module": "search",
        "arguments": [*plan.arguments, "--max-seqs", str(MAX_CANDIDATES)],
        "identity": "identical residues / columns of the local alignment",
        "train": {"sequences": int(held.train.sum())},
        "splits": {name: nearest.account(code) for code, name in ((VAL, "val"), (TEST, "test"))},
    }
    write_json(summary, result)
    for name, split in result["splits"].items():
        at = ", ".join(f"{each['identity']}: {each['sequences']:,}" for each in split["thresholds"])
        log.info("%s: of %s sequences, with a hit in train at identity %s", name, f"{split['sequences']:,}", at)
    return result


def drop_leaks(
    catalog: str | os.PathLike,
    drawn: str | os.PathLike,
    drawn_summary: str | os.PathLike,
    filter_summary: str | os.PathLike,
    plan: SearchPlan,
    drop_above: float,
    *,
    splits: str | os.PathLike,
    summary: str | os.PathLike,
    rejects: str | os.PathLike,
    mmseqs: Mmseqs,
) -> dict:
    """Drop train sequences, with their duplicates, that held-out ones hit at an identity of `drop_above` or more.

    What is left is searched again until there is no such hit.

    Parameters
    ----------
    catalog, filter_summary, drawn, drawn_summary : path
        What the filter and split stages wrote.
    plan : SearchPlan
    drop_above : float
    splits, summary : path
        As the split stage writes them, with the dropped records marked ``rejected``; the summary is also returned.
    rejects : path
        Parquet file of the dropped records, each with the hit of highest identity on it when it was dropped.
    mmseqs : Mmseqs

    Raises
    ------
    UserError
        As `measure_leakage`; and where a split has its duplicates apart from their canonical ids.
    """
    held = Held(catalog, drawn)
    if held.apart:
        raise UserError(f"{drawn}: duplicates are not in the split of their canonical id, so leaks cannot be dropped")
    leaks = Leaks(len(held.codes), drop_above)
    with scratch_directory(splits) as folder:
        candidates = MAX_CANDIDATES
        while True:
            before = leaks.count
            for hits in search(held, held.train & ~leaks.found, plan, folder, mmseqs, candidates):
                leaks.add(hits)
            log.info("%s sequences of train leak", f"{leaks.count:,}")
            if leaks.count == before:
                break
            # No more than there are; its own numbers end at 2^31.
            candidates = min(candidates * MORE_CANDIDATES, max(MAX_CANDIDATES, len(held.codes)))
    dropped = leaks.found[held.canonical]
    account, result = read_json(filter_summary), read_json(drawn_summary)
    write_rejects(rejects, catalog, account["inputs"], dropped, LEAK, leaks.details(held))
    counts = write_splits(catalog, np.where(dropped, np.int8(REJECTED), held.codes), splits)
    lost = counts.pop(DROPPED)
    for earlier in result["rejected"].values():
        lost = {key: lost[key] - earlier[key] for key in lost}
    result["kept"] -= lost["sequences"]
    result["rejected"][LEAK] = lost
    result["splits"] = counts
    write_json(summary, result)
    return result


class Held:
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
    held: Held, targets: np.ndarray, plan: SearchPlan, folder: Path, mmseqs: Mmseqs, candidates: int
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


def forecast(held: Held, targets: np.ndarray, n_query: int, n_target: int, threads: int) -> str:
    """What a search will take, in words."""
    seconds = SEARCH_S + TARGET_RESIDUE_S * n_target + (QUERY_RESIDUE_S + RESIDUE_PAIR_S * n_target) * n_query
    gb = index_bytes(n_target) / 1e9
    return (
        f"searching {held.queries.sum():,} sequences of val and test against {targets.sum():,} of train: about "
        f"{seconds / threads / 3600:.2f} hours on {threads} threads and {gb:.1f} GB are expected; "
        "with less memory it works in pieces"
    )


class Nearest:
    """The best hit of each query so far."""

    def __init__(self, held: Held) -> None:
        self.held = held
        self.rows = np.flatnonzero(held.queries)
        self.target = np.full(len(self.rows), -1)
        self.values = {name: np.full(len(self.rows), np.nan) for name in ("identity", "qcov", "tcov", "evalue", "bits")}

    def add(self, hits: dict[str, np.ndarray]) -> None:
        """Take hits into account."""
        order = np.lexsort((hits["target"], -hits["bits"], -hits["identity"], hits["query"]))
        best = order[np.unique(hits["query"][order], return_index=True)[1]]
        at = np.searchsorted(self.rows, hits["query"][best])
        # A query's hits may come in two pieces.
        old = (-self.values["identity"][at], -self.values["bits"][at], self.target[at])
        new = (-hits["identity"][best], -hits["bits"][best], hits["target"][best])
        better = self.target[at] < 0
        equal = ~better
        for was, now in zip(old, new, strict=True):
            better |= equal & (now < was)
            equal &= now == was
        best, at = best[better], at[better]
        self.target[at] = hits["target"][best]
        for name, values in self.values.items():
            values[at] = hits[name][best]

    def add_twins(self) -> None:
        """Make each query's own sequence in train its nearest; a search misses those too short or too repetitive."""
        rows, twin = self.held.twins()
        at = np.searchsorted(self.rows, rows)
        whole = (self.values["identity"][at] == 1) & (self.values["qcov"][at] == 1) & (self.values["tcov"][at] == 1)
        for name in ("evalue", "bits"):
            self.values[name][at[~whole]] = np.nan
        self.target[at] = twin
        for name in ("identity", "qcov", "tcov"):
            self.values[name][at] = 1.0

    def account(self, code: int) -> dict[str, Any]:
        """Counts of one split."""
        mine = self.held.codes[self.rows] == code
        total = int(mine.sum())
        identity = self.values["identity"][mine]
        at_least = {threshold: int((identity >= threshold).sum()) for threshold in THRESHOLDS}
        return {
            "sequences": total,
            "without_hit": int((self.target[mine] < 0).sum()),
            "thresholds": [
                {"identity": threshold, "sequences": n, "fraction": n / total if total else None}
                for threshold, n in at_least.items()
            ],
        }


def write_nearest(held: Held, nearest: Nearest, leakage: str | os.PathLike) -> None:
    """Write the table of nearest hits."""
    names = RowNames(held.catalog, len(held.codes), nearest.target)
    row = start = 0
    with atomic_path(leakage) as path, ParquetSink(path, LEAKAGE, GROUP_ROWS, use_dictionary=["split"]) as sink:
        for table in read_catalog(held.catalog, ["id"]):
            end = int(np.searchsorted(nearest.rows, row + len(table)))
            mine = nearest.rows[start:end]
            target = nearest.target[start:end]
            columns = [
                table["id"].take(pa.array(mine - row)),
                pa.array(SPLITS).take(pa.array(held.codes[mine])),
                names.of(target),
                *(pa.array(values[start:end], from_pandas=True) for values in nearest.values.values()),
            ]
            sink.write(pa.Table.from_arrays(columns, schema=LEAKAGE))
            row, start = row + len(table), end


class Leaks:
    """Train rows that were hit at or above an identity, each with its best hit."""

    def __init__(self, total: int, drop_above: float) -> None:
        self.drop_above = drop_above
        self.identity = np.zeros(total)
        self.query = np.full(total, -1, row_type(total))

    @property
    def found(self) -> np.ndarray:
        """Whether each row was hit; dtype=bool, shape (n,)."""
        return self.query >= 0

    @property
    def count(self) -> int:
        """Rows that were hit."""
        return int(self.found.sum())

    def add(self, hits: dict[str, np.ndarray]) -> None:
        """Take hits into account: of a row the one of the highest identity, then of the smallest query."""
        close = np.flatnonzero(hits["identity"] >= self.drop_above)
        target, query, identity = (hits[name][close] for name in ("target", "query", "identity"))
        order = np.lexsort((query, -identity, target))
        best = order[np.unique(target[order], return_index=True)[1]]
        target, query, identity = target[best], query[best], identity[best]
        was = self.identity[target]
        better = (identity > was) | ((identity == was) & (query < self.query[target]))
        self.identity[target[better]] = identity[better]
        self.query[target[better]] = query[better]

    def details(self, held: Held) -> Callable[[np.ndarray], pa.Array]:
        """A function from rows to what they leak, as `write_rejects` takes it."""
        names = RowNames(held.catalog, len(self.query), self.query)

        def details(rows: np.ndarray) -> pa.Array:
            hit = held.canonical[rows]
            of = names.of(self.query[hit])
            split = pa.array(SPLITS).take(pa.array(held.codes[self.query[hit]]))
            identity = pa.array([f"identity {value:.3f} to " for value in self.identity[hit]], pa.string())
            return pc.binary_join_element_wise(identity, of, pc.binary_join_element_wise(" in ", split, ""), "")

        return details
