"""Split stage: val, test and train, the same for the same ids wherever and in whatever order they are read.

Memory: 8 to 24 bytes per record.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog import CATALOG_GROUP_ROWS, catalog_files, read_catalog
from embedome.errors import UserError
from embedome.files import atomic_path, read_json, write_json
from embedome.tables import ParquetSink, open_parquet

log = logging.getLogger(__name__)

SPLITS = ("val", "test", "train")
VAL, TEST, TRAIN = range(3)
SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("split", pa.string(), nullable=False)])
# A multiple of the catalog's row groups, so that the two files can be read in step.
GROUP_ROWS = 8 * CATALOG_GROUP_ROWS


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How to split.

    Parameters
    ----------
    method : str
        ``hash`` or ``bionemo``.
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

    Raises
    ------
    UserError
        Where val and test are larger than the catalog, and where the catalog is not that of the summary.
    """
    account = read_json(filter_summary)
    total = sum(open_parquet(path).metadata.num_rows for path in catalog_files(catalog))
    if total != account["kept"]:
        raise UserError(
            f"{catalog}: {total:,} records, but the filter kept {account['kept']:,}; rerun the filter stage"
        )
    method = {"hash": hash_splits, "bionemo": bionemo_splits}[plan.method]
    assign = method(catalog, account, plan)
    counts = {name: {"sequences": 0, "duplicates": 0, "residues": 0} for name in SPLITS}
    names = pa.array(SPLITS)
    with atomic_path(splits) as path, ParquetSink(path, SCHEMA, GROUP_ROWS, use_dictionary=["split"]) as sink:
        for table in read_catalog(catalog, ["id", "length", "record", "duplicate_of"]):
            codes = assign(table)
            sink.write(pa.Table.from_arrays([table["id"], names.take(pa.array(codes))], schema=SCHEMA))
            count(counts, table, codes)
    result = {"format": 1, "method": plan.method, "seed": plan.seed, "kept": account["kept"], "splits": counts}
    write_json(summary, result)
    log.info("%s", ", ".join(f"{name}: {split['sequences']:,} sequences" for name, split in counts.items()))
    return result


def count(counts: dict[str, dict[str, int]], table: pa.Table, codes: np.ndarray) -> None:
    """Add a table's rows to the counts of their splits."""
    duplicate = table["duplicate_of"].is_valid().to_numpy()
    lengths = table["length"].to_numpy()
    for code, name in enumerate(SPLITS):
        mine = codes == code
        counts[name]["sequences"] += int(mine.sum())
        counts[name]["duplicates"] += int((mine & duplicate).sum())
        counts[name]["residues"] += int(lengths[mine].sum())


Assign = Callable[[pa.Table], np.ndarray]


def hash_splits(catalog: str | os.PathLike, account: dict, plan: SplitPlan) -> Assign:
    """Rank distinct sequences by a keyed hash of their id: the smallest are val, the next test, the rest train.

    A duplicate goes where its canonical id goes: its sequence must not be in two splits. The counts hold for
    distinct sequences. A later release moves only the ids at the two thresholds.
    """
    rank_of, is_distinct = [np.empty(0, np.uint64)], [np.empty(0, bool)]
    for table in read_catalog(catalog, ["id", "duplicate_of"]):
        rank_of.append(hash_ids(pc.coalesce(table["duplicate_of"], table["id"]), plan.seed))
        is_distinct.append(table["duplicate_of"].is_null().to_numpy())
    ranks = np.concatenate(rank_of)
    sorted_ranks = ranks[np.concatenate(is_distinct)]
    sorted_ranks.sort()
    n_val, n_test = plan.sizes(len(sorted_ranks))
    # At how many of the two thresholds, the first ranks that are no longer val and test, each rank is or lies beyond.
    codes = np.zeros(len(ranks), np.int8)
    for n in (n_val, n_val + n_test):
        if n < len(sorted_ranks):
            codes += ranks >= sorted_ranks[n]
    end = 0

    def assign(table: pa.Table) -> np.ndarray:
        # Tables come as they were ranked.
        nonlocal end
        end += len(table)
        return codes[end - len(table) : end]

    return assign


def hash_ids(ids: pa.ChunkedArray, seed: int) -> np.ndarray:
    """Keyed BLAKE2b hash (RFC 7693) of each id as a 64-bit number, shape (n,)."""
    key = str(seed).encode()
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest() for name in ids.to_pylist())
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def bionemo_splits(catalog: str | os.PathLike, account: dict, plan: SplitPlan) -> Assign:
    """Shuffle the record order with NumPy's default_rng: the first are val, the next test, the rest train.

    What the founding models were trained with (BioNeMo framework's UniRef50 preprocessing, seed 0). It goes by
    the order of records in the input, and duplicates are drawn on their own.
    """
    population = None
    if plan.length_filter == "before":
        tables = read_catalog(catalog, ["record"])
        population = np.sort(np.concatenate([table["record"].to_numpy() for table in tables]))
    total = account["read"] if population is None else len(population)
    n_val, n_test = plan.sizes(total)
    order = np.arange(total)
    np.random.default_rng(plan.seed).shuffle(order)
    codes = np.full(total, TRAIN, np.int8)
    codes[order[:n_val]] = VAL
    codes[order[n_val : n_val + n_test]] = TEST

    def assign(table: pa.Table) -> np.ndarray:
        records = table["record"].to_numpy()
        return codes[records if population is None else np.searchsorted(population, records)]

    return assign


def read_split_catalog(
    catalog: str | os.PathLike, splits: str | os.PathLike, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yield the catalog a row group at a time, with each row's index in `SPLITS`.

    Raises
    ------
    UserError
        Where the two files do not list the same ids.
    """
    batches = open_parquet(splits).iter_batches(CATALOG_GROUP_ROWS, use_threads=False)
    mismatch = UserError(f"{splits}: its ids are not those of {catalog}; rerun the split stage")
    for table in read_catalog(catalog, columns):
        batch = next(batches, None)
        if batch is None or batch.schema.names != SCHEMA.names:
            raise mismatch
        if not table["id"].combine_chunks().equals(batch["id"]):
            raise mismatch
        codes = np.zeros(len(batch), np.int8)
        for code, name in enumerate(SPLITS):
            codes[pc.equal(batch["split"], name).to_numpy(zero_copy_only=False)] = code
        yield table, codes
    if next(batches, None) is not None:
        raise mismatch
