"""Leakage: which held-out sequences have relatives in train, by a search of MMseqs2; and train without them.

Memory of this process: some 60 bytes per record; of MMseqs2: its limit.
"""

import logging
import os
from typing import Any

import numpy as np
import pyarrow as pa

from embedome.catalog.rows import RowNames
from embedome.catalog.table import read_catalog
from embedome.common.atomic_files import atomic_path, scratch_directory
from embedome.common.json_files import write_json
from embedome.common.terms import SPLITS, TEST, VAL
from embedome.parquet.writer import ParquetSink
from embedome.splits.held_out import MAX_CANDIDATES, HeldOut, SearchSettings
from embedome.splits.mmseqs import PLAIN_SCORES, Mmseqs
from embedome.splits.split_table import GROUP_ROWS
from embedome.splits.train_search import find_unsearchable, search

log = logging.getLogger(__name__)


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
        pa.field("searched", pa.bool_(), nullable=False),
    ]
)
# What is known of a hit, in the order of the table; the first three are 1 where a sequence hits itself.
MEASURES = ("identity", "coverage", "target_coverage", "evalue", "bits")
WHOLE = MEASURES[:3]


def measure_leakage(
    catalog: str | os.PathLike,
    splits: str | os.PathLike,
    plan: SearchSettings,
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
    plan : SearchSettings
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
    held = HeldOut(catalog, splits)
    nearest = NearestHits(held)
    version = mmseqs.version
    with scratch_directory(leakage) as folder:
        for hits in search(held, held.train, plan, folder, mmseqs, MAX_CANDIDATES):
            nearest.add(hits)
        nearest.unsearchable = find_unsearchable(held, plan, folder, mmseqs)[nearest.rows]
    nearest.add_twins()
    write_nearest(held, nearest, leakage)
    result: dict[str, Any] = {
        "format": 2,
        "program": "MMseqs2",
        "version": version,
        "arguments": [*plan.arguments, *PLAIN_SCORES, "--max-seqs", str(MAX_CANDIDATES)],
        "identity": "identical residues / columns of the local alignment",
        "train": {"sequences": int(held.train.sum()), "not_searched": int((held.train & ~held.fits).sum())},
        "splits": {name: nearest.account(code) for code, name in ((VAL, "val"), (TEST, "test"))},
    }
    write_json(summary, result)
    for name, split in result["splits"].items():
        at = ", ".join(f"{each['identity']}: {each['sequences']:,}" for each in split["thresholds"])
        log.info("%s: of %s sequences, with a hit in train at identity %s", name, f"{split['sequences']:,}", at)
        if split["not_searched"]:
            log.warning("%s: %s sequences cannot be searched; they count as without hit", name, split["not_searched"])
    return result


class NearestHits:
    """The best hit of each query so far."""

    def __init__(self, held: HeldOut) -> None:
        self.held = held
        self.rows = np.flatnonzero(held.queries)
        self.target = np.full(len(self.rows), -1)
        self.unsearchable = np.zeros(len(self.rows), bool)
        self.values = {name: np.full(len(self.rows), np.nan) for name in MEASURES}

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
        whole = (
            (self.values["identity"][at] == 1)
            & (self.values["coverage"][at] == 1)
            & (self.values["target_coverage"][at] == 1)
        )
        for name in ("evalue", "bits"):
            self.values[name][at[~whole]] = np.nan
        self.target[at] = twin
        for name in WHOLE:
            self.values[name][at] = 1.0

    @property
    def not_searched(self) -> np.ndarray:
        """Whether each query has no hit, and could have none; dtype=bool, shape (n,)."""
        return self.unsearchable & (self.target < 0)

    def account(self, code: int) -> dict[str, Any]:
        """Return the counts of one split."""
        mine = self.held.codes[self.rows] == code
        total = int(mine.sum())
        identity = self.values["identity"][mine]
        at_least = {threshold: int((identity >= threshold).sum()) for threshold in THRESHOLDS}
        return {
            "sequences": total,
            "without_hit": int((self.target[mine] < 0).sum()),
            "not_searched": int((self.not_searched & mine).sum()),
            "thresholds": [
                {"identity": threshold, "sequences": n, "fraction": n / total if total else None}
                for threshold, n in at_least.items()
            ],
        }


def write_nearest(held: HeldOut, nearest: NearestHits, leakage: str | os.PathLike) -> None:
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
                pa.array(~nearest.not_searched[start:end]),
            ]
            sink.write(pa.Table.from_arrays(columns, schema=LEAKAGE))
            row, start = row + len(table), end
