"""Rule drop_leaks: train without the sequences that a held-out one hits at some identity or above."""

import logging
import os
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.rejects import write_rejects
from embedome.catalog.rows import RowNames, row_type
from embedome.catalog.table import check_catalog
from embedome.common.atomic_files import scratch_directory
from embedome.common.errors import UserError
from embedome.common.json_files import read_json, write_json
from embedome.common.terms import REJECTED, SPLITS
from embedome.splits.held_out import MAX_CANDIDATES, MORE_CANDIDATES, HeldOut, SearchSettings
from embedome.splits.mmseqs import Mmseqs
from embedome.splits.split_table import DROPPED, write_splits
from embedome.splits.train_search import search

log = logging.getLogger(__name__)


LEAK = "leak"


def drop_leaks(
    catalog: str | os.PathLike,
    drawn: str | os.PathLike,
    drawn_summary: str | os.PathLike,
    filter_summary: str | os.PathLike,
    plan: SearchSettings,
    drop_above: float,
    *,
    splits: str | os.PathLike,
    summary: str | os.PathLike,
    rejects: str | os.PathLike,
    mmseqs: Mmseqs,
) -> dict:
    """Drop train sequences, with their duplicates, that held-out ones hit at an identity of `drop_above` or more.

    The remaining train sequences are searched again until no such hit is found.

    Parameters
    ----------
    catalog, filter_summary, drawn, drawn_summary : path
        What the filter and split stages wrote.
    plan : SearchSettings
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
    account, result = read_json(filter_summary), read_json(drawn_summary)
    check_catalog(catalog, result.get("catalog_sha256"), drawn_summary)
    held = HeldOut(catalog, drawn)
    if held.apart:
        raise UserError(f"{drawn}: duplicates are not in the split of their canonical id, so leaks cannot be dropped")
    leaks = LeakedRows(len(held.codes), drop_above)
    with scratch_directory(splits) as folder:
        candidates = MAX_CANDIDATES
        while True:
            before = leaks.count
            for hits in search(held, held.train & ~leaks.found, plan, folder, mmseqs, candidates):
                leaks.add(hits)
            log.info("%s sequences of train leak", f"{leaks.count:,}")
            if leaks.count == before:
                break
            # At most the number of sequences; MMseqs2's own numbers end at 2^31.
            candidates = min(candidates * MORE_CANDIDATES, max(MAX_CANDIDATES, len(held.codes)))
    dropped = leaks.found[held.canonical]
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


class LeakedRows:
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

    def details(self, held: HeldOut) -> Callable[[np.ndarray], pa.Array]:
        """Return a function from rows to what they leak, as `write_rejects` takes it."""
        names = RowNames(held.catalog, len(self.query), self.query)

        def details(rows: np.ndarray) -> pa.Array:
            hit = held.canonical[rows]
            of = names.of(self.query[hit])
            split = pa.array(SPLITS).take(pa.array(held.codes[self.query[hit]]))
            identity = pa.array([f"identity {value:.3f} to " for value in self.identity[hit]], pa.string())
            return pc.binary_join_element_wise(identity, of, pc.binary_join_element_wise(" in ", split, ""), "")

        return details
