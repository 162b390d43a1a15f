"""Split stage: val, test and train, the same for the same ids wherever and in whatever order they are read.

Memory: 20 to 40 bytes per record; with clusters some 45.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.rejects import write_rejects
from embedome.catalog.rows import RowNames, is_canonical
from embedome.catalog.table import CATALOG_GROUP_ROWS, count_rows, read_catalog
from embedome.common.atomic_files import atomic_path
from embedome.common.errors import UserError
from embedome.common.json_files import read_json, write_json
from embedome.common.terms import REJECTED, SPLITS, TEST, TRAIN, VAL
from embedome.groups import Clusters, read_clusters
from embedome.parquet.reader import ParquetFile
from embedome.parquet.writer import ParquetSink
from embedome.sequences.digests import hash_ids

log = logging.getLogger(__name__)


# What a record is marked as that is in the catalog and in no split.
DROPPED = "rejected"
REDUNDANT = "redundant"
SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("split", pa.string(), nullable=False)])
# Clusters that are looked at at once.
DRAW_BLOCK = 1 << 20
# A multiple of the catalog's row groups, so that the two files can be read in step.
GROUP_ROWS = 8 * CATALOG_GROUP_ROWS


@dataclass(frozen=True, slots=True)
class SplitPlan:
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
        """Number of val and of test sequences among `total`.

        Raises
        ------
        UserError
            Where they are more than there are.
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


def split_catalog(
    catalog: str | os.PathLike,
    filter_summary: str | os.PathLike,
    plan: SplitPlan,
    *,
    splits: str | os.PathLike,
    summary: str | os.PathLike,
    clusters: str | os.PathLike | None = None,
    rejects: str | os.PathLike | None = None,
) -> dict:
    """Give every record of the catalog a split.

    Parameters
    ----------
    catalog, filter_summary : path
        What the filter stage wrote.
    plan : SplitPlan
    splits : path
        Parquet file for (id, split), in the catalog's order.
    summary : path
        JSON file for the counts; also returned.
    clusters : path, optional
        What the cluster stage wrote: for the method ``cluster``, and with `rejects`.
    rejects : path, optional
        If given, clusters are a redundancy filter: of each only the representative and its duplicates are kept, the
        others are marked ``rejected`` in `splits` and listed in this Parquet file.

    Raises
    ------
    UserError
        Where val and test are larger than the catalog, and where the catalog is not that of the summary.
    """
    account = read_json(filter_summary)
    total = count_rows(catalog)
    if total != account["kept"]:
        raise UserError(
            f"{catalog}: {total:,} records, but the filter kept {account['kept']:,}; rerun the filter stage"
        )
    groups = read_clusters(catalog, clusters) if clusters else None
    dropped = groups.redundant if rejects else np.zeros(total, bool)
    if plan.method == "cluster":
        codes = cluster_splits(catalog, groups, plan, dropped)
    else:
        codes = {"hash": hash_splits, "bionemo": bionemo_splits}[plan.method](catalog, account, plan, dropped)
    codes[dropped] = REJECTED
    if rejects:
        write_redundant(catalog, account["inputs"], groups, rejects)
    counts = write_splits(catalog, codes, splits)
    lost = counts.pop(DROPPED)
    rejected = {REDUNDANT: lost} if rejects else {}
    kept = account["kept"] - lost["sequences"]
    result = {
        "format": 1, "method": plan.method, "seed": plan.seed, "kept": kept, "rejected": rejected, "splits": counts
    }  # fmt: skip
    write_json(summary, result)
    log.info("%s", ", ".join(f"{name}: {split['sequences']:,} sequences" for name, split in counts.items()))
    return result


def write_redundant(
    catalog: str | os.PathLike, inputs: Sequence[Mapping[str, Any]], groups: Clusters, rejects: str | os.PathLike
) -> None:
    """List the records whose clusters have another representative, with this one's id."""
    redundant = groups.redundant
    names = RowNames(catalog, len(redundant), groups.representative[groups.number[redundant]])

    def details(rows: np.ndarray) -> pa.StringArray:
        of = names.of(groups.representative[groups.number[rows]])
        return pc.binary_join_element_wise("represented by ", of, "")

    write_rejects(rejects, catalog, inputs, redundant, REDUNDANT, details)


def write_splits(catalog: str | os.PathLike, codes: np.ndarray, splits: str | os.PathLike) -> dict[str, dict[str, int]]:
    """Write the split of each row of the catalog; give the counts of each split and of what is in none.

    Parameters
    ----------
    catalog : path
    codes : numpy.ndarray, dtype=int8, shape=(n,)
        Index of each row in `SPLITS`, or `REJECTED`.
    splits : path
        Parquet file.
    """
    names = (*SPLITS, DROPPED)
    counts = {name: {"sequences": 0, "duplicates": 0, "residues": 0} for name in names}
    start = 0
    with atomic_path(splits) as path, ParquetSink(path, SCHEMA, GROUP_ROWS, use_dictionary=["split"]) as sink:
        for table in read_catalog(catalog, ["id", "length", "duplicate_of"]):
            mine = codes[start : start + len(table)]
            start += len(table)
            sink.write(pa.Table.from_arrays([table["id"], pa.array(names).take(pa.array(mine))], schema=SCHEMA))
            count(counts, table, mine)
    return counts


def count(counts: dict[str, dict[str, int]], table: pa.Table, codes: np.ndarray) -> None:
    """Add a table's rows to the counts of their splits."""
    duplicate = table["duplicate_of"].is_valid().to_numpy()
    lengths = table["length"].to_numpy()
    for code, name in enumerate(counts):
        mine = codes == code
        counts[name]["sequences"] += int(mine.sum())
        counts[name]["duplicates"] += int((mine & duplicate).sum())
        counts[name]["residues"] += int(lengths[mine].sum())


def hash_splits(catalog: str | os.PathLike, account: dict, plan: SplitPlan, dropped: np.ndarray) -> np.ndarray:
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
    # At how many of the two thresholds, the first ranks that are no longer val and test, each rank is or lies beyond.
    codes = np.zeros(len(ranks), np.int8)
    for n in (n_val, n_val + n_test):
        if n < len(sorted_ranks):
            codes += ranks >= sorted_ranks[n]
    return codes


def cluster_splits(catalog: str | os.PathLike, groups: Clusters, plan: SplitPlan, dropped: np.ndarray) -> np.ndarray:
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


def bionemo_splits(catalog: str | os.PathLike, account: dict, plan: SplitPlan, dropped: np.ndarray) -> np.ndarray:
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
    # A dropped record is in no place of the population; whatever it gets here is not used.
    return codes[np.minimum(np.searchsorted(population, records), total - 1)]


def read_split_catalog(
    catalog: str | os.PathLike, splits: str | os.PathLike, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yield the catalog a row group at a time, with each row's index in `SPLITS`, or `REJECTED`.

    Raises
    ------
    UserError
        Where the two files do not list the same ids.
    """
    batches = ParquetFile(splits).iter_batches(CATALOG_GROUP_ROWS, use_threads=False)
    mismatch = UserError(f"{splits}: its ids are not those of {catalog}; rerun the split stage")
    for table in read_catalog(catalog, columns):
        batch = next(batches, None)
        if batch is None or batch.schema.names != SCHEMA.names:
            raise mismatch
        if not table["id"].combine_chunks().equals(batch["id"]):
            raise mismatch
        found = pc.index_in(batch["split"], value_set=pa.array([*SPLITS, DROPPED]))
        if found.null_count:
            raise mismatch
        yield table, found.to_numpy().astype(np.int8)
    if next(batches, None) is not None:
        raise mismatch
