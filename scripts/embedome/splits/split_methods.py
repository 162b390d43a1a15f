"""The methods hash, cluster and bionemo: a split for every record."""

import logging
import os
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.rows import is_canonical
from embedome.catalog.table import read_catalog
from embedome.common.errors import UserError
from embedome.common.settings import SectionSettings
from embedome.common.terms import SPLITS, TEST, TRAIN, VAL
from embedome.sequences.digests import hash_ids
from embedome.splits.cluster_table import Clusters

log = logging.getLogger(__name__)


# Clusters drawn from at once.
DRAW_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class SplitSettings(SectionSettings):
    """How to split.

    Parameters
    ----------
    method : str
        ``hash``, ``cluster`` or ``bionemo``.
    seed : int
        Key of the hash, or seed of the shuffle.
    val, test : int or float
        Sequences, or, below 1, a fraction of all; the rest is train.
    length_filter : str
        For ``bionemo``: ``after`` draws from all records read and drops the filtered ones afterwards, ``before``
        draws from the kept ones.
    """

    method: str
    seed: int
    val: int | float
    test: int | float
    length_filter: str = "after"

    def sizes(self, total: int) -> tuple[int, int]:
        """Return the numbers of val and of test sequences among `total`.

        Raises
        ------
        UserError
            Where they add up to more than `total`.
        """
        n_val, n_test = (round(size * total) if size < 1 else int(size) for size in (self.val, self.test))
        if max(self.val, self.test) < 1 and self.val + self.test <= 1:
            n_test = min(n_test, total - n_val)  # both may have been rounded up
        if n_val + n_test > total:
            raise UserError(
                f"split.val and split.test ask for {n_val:,} and {n_test:,} sequences, but there are {total:,}; "
                "lower them, or give fractions"
            )
        return n_val, n_test


def hash_splits(catalog: str | os.PathLike, account: dict, plan: SplitSettings, dropped: np.ndarray) -> np.ndarray:
    """Rank distinct sequences by a keyed hash of their id: the smallest are val, the next test, the rest train.

    A duplicate goes where its canonical id goes: its sequence must not be in two splits. The counts hold for
    distinct sequences that are not dropped. A later release moves only the ids at the two thresholds.
    """
    ranks, drawn, start = np.empty(len(dropped), np.uint64), ~dropped, 0
    for table in read_catalog(catalog, ["id", "duplicate_of"]):
        mine = slice(start, start + len(table))
        ranks[mine] = hash_ids(pc.coalesce(table["duplicate_of"], table["id"]), plan.seed)
        drawn[mine] &= table["duplicate_of"].is_null().to_numpy()
        start += len(table)
    sorted_ranks = ranks[drawn]
    sorted_ranks.sort()
    n_val, n_test = plan.sizes(len(sorted_ranks))
    # Code = number of thresholds (first rank after val, first rank after test) at or below the rank.
    codes = np.zeros(len(ranks), np.int8)
    for n in (n_val, n_val + n_test):
        if n < len(sorted_ranks):
            codes += ranks >= sorted_ranks[n]
    return codes


def cluster_splits(
    catalog: str | os.PathLike, groups: Clusters, plan: SplitSettings, dropped: np.ndarray
) -> np.ndarray:
    """Rank clusters by a keyed hash of their smallest id, and draw val, then test, from them whole; the rest is train.

    The smallest id is the cluster's own whatever its representative; it does not favour large clusters, as the
    smallest hash of all members would.
    """
    ranks, start = np.empty(len(groups.first), np.uint64), 0
    for table in read_catalog(catalog, ["id"]):
        numbers = groups.number[start : start + len(table)]
        first = groups.first[numbers] == np.arange(start, start + len(table), dtype=numbers.dtype)
        ranks[numbers[first]] = hash_ids(table["id"].filter(pa.array(first)), plan.seed)
        start += len(table)
    sizes = np.zeros_like(groups.first)
    np.add.at(sizes, groups.number[is_canonical(groups.canonical) & ~dropped], 1)
    asked = plan.sizes(int(sizes.sum()))
    drawn = draw_clusters(sizes, ranks, asked)
    for name, code, n in zip(SPLITS, (VAL, TEST), asked, strict=False):
        if (found := int(sizes[drawn == code].sum())) != n:
            log.warning("split.%s asks for %s sequences; whole clusters make %s", name, f"{n:,}", f"{found:,}")
    return drawn[groups.number]


def draw_clusters(sizes: np.ndarray, ranks: np.ndarray, asked: tuple[int, int]) -> np.ndarray:
    """Draw val and test from clusters in the order of their ranks, passing over those too large for what is left.

    So neither is larger than asked for, and each is smaller only where what is left to fill is smaller than all
    clusters that follow.

    Parameters
    ----------
    sizes : numpy.ndarray, dtype=int, shape=(k,)
        Sequences of each cluster.
    ranks : numpy.ndarray, dtype=uint64, shape=(k,)
    asked : tuple of int
        Sequences of val and of test.

    Returns
    -------
    numpy.ndarray, dtype=int8, shape=(k,)
        Index of each cluster in `SPLITS`.
    """
    codes = np.full(len(sizes), TRAIN, np.int8)
    order = np.argsort(ranks, kind="stable")
    for code, room in zip((VAL, TEST), asked, strict=True):
        for start in range(0, len(order), DRAW_BLOCK):
            following = order[start : start + DRAW_BLOCK]
            following = following[codes[following] == TRAIN]
            while len(following := following[sizes[following] <= room]):
                # The first of them fits, and so do some more.
                ends = np.cumsum(sizes[following], dtype=np.int64)
                fit = int(np.searchsorted(ends, room, side="right"))
                codes[following[:fit]] = code
                room -= int(ends[fit - 1])
                following = following[fit:]
    return codes


def bionemo_splits(catalog: str | os.PathLike, account: dict, plan: SplitSettings, dropped: np.ndarray) -> np.ndarray:
    """Shuffle the record order with NumPy's default_rng: the first are val, the next test, the rest train.

    What the founding models were trained with (BioNeMo framework's UniRef50 preprocessing, seed 0). It goes by
    the order of records in the input, and duplicates are drawn on their own.
    """
    records = np.concatenate([table["record"].to_numpy() for table in read_catalog(catalog, ["record"])])
    population = np.sort(records[~dropped]) if plan.length_filter == "before" else None
    total = account["read"] if population is None else len(population)
    n_val, n_test = plan.sizes(total)
    order = np.arange(total)
    np.random.default_rng(plan.seed).shuffle(order)
    codes = np.full(total, TRAIN, np.int8)
    codes[order[:n_val]] = VAL
    codes[order[n_val : n_val + n_test]] = TEST
    if population is None:
        return codes[records]
    # A dropped record is not in the population; its code is not used.
    return codes[np.minimum(np.searchsorted(population, records), total - 1)]
