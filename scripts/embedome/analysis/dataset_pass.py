"""One pass over the rows of a data set: sums of each split, and a sample of sequences.

Shapes: n rows, D dimensions, N distinct sequences of the data set, k sampled ones.

Each file has its `FileSums`, which are added up in the files' order: the numbers are the same, to the last byte, on
any number of workers. Memory: a row group and a few D x D matrices per worker, 8 bytes per distinct sequence for the
hashes of their vectors, 40 while they are counted, and the sample.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.analysis.principal_components import Moments
from embedome.common.dask_workers import DaskWorkers
from embedome.common.errors import UserError
from embedome.common.log import Progress
from embedome.common.parallel import map_in_order
from embedome.common.terms import DUPLICATE
from embedome.dataset.dataset import Dataset
from embedome.dataset.part_file import iter_rows
from embedome.parquet.vectors import vector_array, vector_matrix
from embedome.sequences.digests import hash_ids

ALL = "all"
# Not a split's seed: the first sequences by that hash are the whole of val.
SAMPLE_KEY = "report"
# Edges of the bins of norms: 64 to each power of two, 1.1 % wide, from a float16's smallest to beyond the norm of
# 2^20 of its largest. Bin 0 is below all edges.
NORM_EDGES = 2.0 ** (np.arange(-24 * 64, 26 * 64 + 1) / 64)


@dataclass(frozen=True, slots=True)
class SplitSums:
    """What is added up over rows, duplicates among them."""

    moments: Moments
    """Of the vectors."""
    norms: Moments
    """Of their norms, one dimension."""
    norm_counts: np.ndarray
    """int64: rows by bin of `NORM_EDGES`."""
    norm_range: tuple[float, float]
    """Smallest and largest norm."""
    length_counts: np.ndarray
    """int64: rows by length in residues, from 0."""

    @classmethod
    def empty(cls, dimension: int) -> Self:
        """Return those of no row."""
        bins = np.zeros(len(NORM_EDGES) + 1, np.int64)
        return cls(Moments.empty(dimension), Moments.empty(1), bins, (np.inf, 0.0), np.zeros(0, np.int64))

    @classmethod
    def of(cls, vectors: np.ndarray, lengths: np.ndarray) -> Self:
        """Return those of rows with the vectors float16 [n, D] and the lengths int [n], n above 0."""
        exact = vectors.astype(np.float64)
        norms = np.sqrt(np.einsum("nd,nd->n", exact, exact))
        bins = np.searchsorted(NORM_EDGES, norms, side="right")
        return cls(
            Moments.of(exact),
            Moments.of(norms[:, None]),
            np.bincount(bins, minlength=len(NORM_EDGES) + 1),
            (float(norms.min()), float(norms.max())),
            np.bincount(lengths),
        )

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.moments + other.moments,
            self.norms + other.norms,
            self.norm_counts + other.norm_counts,
            (min(self.norm_range[0], other.norm_range[0]), max(self.norm_range[1], other.norm_range[1])),
            add_counts(self.length_counts, other.length_counts),
        )


@dataclass(frozen=True, slots=True)
class FileSums:
    """What is added up over one file."""

    sums: SplitSums
    hashes: np.ndarray
    """uint64: of the vector of each distinct sequence."""
    sample: pa.Table
    """Columns rank, id, length, taxid, embedding."""


@dataclass(frozen=True, slots=True)
class DatasetPass:
    """What is added up over a data set."""

    sums: dict[str, SplitSums]
    """By split."""
    hashes: dict[str, np.ndarray]
    """By split: uint64, sorted, of the vectors of its distinct sequences."""
    sample: pa.Table
    """Columns rank, id, length, taxid, embedding, split; k rows by rank, no duplicates."""

    def with_all(self) -> dict[str, SplitSums]:
        """Return the sums by split, and of all rows under `ALL`."""
        first, *rest = self.sums.values()
        total = first
        for each in rest:
            total += each
        return {**self.sums, ALL: total}


def scan_dataset(data: Dataset, n_sample: int, workers: DaskWorkers) -> DatasetPass:
    """Read every row once, with Dask.

    The sample are the `n_sample` distinct sequences whose ids have the smallest keyed hash: it depends neither on files
    nor on workers, and a smaller sample is the beginning of a larger one.

    Raises
    ------
    UserError
        Where a file is damaged, or its rows are not as many as the manifest says.
    """
    limit = rank_limit(n_sample, distinct_sequences(data))
    work = partial(scan_file, data.folder, data.column(), data.dimension, limit)
    sums = {split: SplitSums.empty(data.dimension) for split in data.splits}
    hashes: dict[str, list[np.ndarray]] = {split: [np.empty(0, np.uint64)] for split in data.splits}
    samples = [with_split(sample_rows([], data.dimension), "")]
    owners = [split for split in data.splits for _ in data.files(split)]
    with workers.client() as client, Progress("analyse", "files", len(owners)) as progress:
        found = map_in_order(client.get_executor(pure=False), work, data.files(), workers.at_once + 1)
        for split, each in zip(owners, found, strict=True):
            sums[split] += each.sums
            hashes[split].append(each.hashes)
            samples.append(with_split(each.sample, split))
            progress.update(1)
    # Ids are unique, so that the order is one.
    sample = pa.concat_tables(samples).sort_by([("rank", "ascending"), ("id", "ascending")])[:n_sample]
    joined = {}
    for split in data.splits:
        joined[split] = np.concatenate(hashes.pop(split))
        joined[split].sort()
    return DatasetPass(sums, joined, sample)


def distinct_sequences(data: Dataset) -> int:
    """Return the number of rows that are no duplicates."""
    states = [split["states"] for split in data.manifest["splits"].values()]
    return sum(count for each in states for state, count in each.items() if state != DUPLICATE)


def rank_limit(n_sample: int, count: int) -> int:
    """Return a rank that at least `n_sample` of `count` uniform ones are below, and not many more.

    So no file returns many more of its rows than will be wanted. The number below it is expected to be ten of its
    standard deviations above `n_sample`.
    """
    wanted = n_sample + 10 * n_sample**0.5 + 100
    return 2**64 - 1 if wanted >= count else int(wanted / count * 2**64)


def scan_file(folder: Path, column: str, dimension: int, limit: int, entry: dict) -> FileSums:
    """Add up a file of a data set, a row group at a time.

    Parameters
    ----------
    folder : path
        Of the data set.
    column : str
        Of the vectors.
    dimension : int
    limit : int
        Rows of distinct sequences whose id has a hash up to this are returned.
    entry : dict
        The manifest's of the file.
    """
    path = folder / entry["file"]
    sums, hashes, samples = SplitSums.empty(dimension), [np.empty(0, np.uint64)], [sample_rows([], dimension)]
    for batch in iter_rows(path, ["id", "length", "state", "taxid", column]):
        vectors = vector_matrix(batch[column])
        sums += SplitSums.of(vectors, batch["length"].to_numpy())
        distinct = pc.not_equal(batch["state"], DUPLICATE).to_numpy(zero_copy_only=False)
        hashes.append(hash_vectors(vectors[distinct]))
        ranks = hash_ids(batch["id"], SAMPLE_KEY)
        drawn = np.flatnonzero(distinct & (ranks <= limit))
        some = batch.take(pa.array(drawn))
        known = [ranks[drawn], *(some[name] for name in ("id", "length", "taxid"))]
        samples.append(sample_rows([*known, vector_array(vectors[drawn])], dimension))
    if sums.moments.count != entry["rows"]:
        raise UserError(
            f"{path}: {sums.moments.count:,} rows, the manifest says {entry['rows']:,}; merge the data set again"
        )
    return FileSums(sums, np.concatenate(hashes), pa.concat_tables(samples).combine_chunks())


def sample_rows(columns: list, dimension: int) -> pa.Table:
    """Make a table of sampled rows; empty without columns."""
    # Plain types: on the way between processes a list's type loses which items may be null.
    types = {
        "rank": pa.uint64(),
        "id": pa.string(),
        "length": pa.int32(),
        "taxid": pa.int32(),
        "embedding": pa.list_(pa.float16(), dimension),
    }
    schema = pa.schema(list(types.items()))
    return pa.table(dict(zip(types, columns, strict=True))).cast(schema) if columns else schema.empty_table()


def with_split(sample: pa.Table, split: str) -> pa.Table:
    """Add the name of their split to sampled rows."""
    return sample.append_column("split", pa.array([split] * len(sample), pa.string()))


def hash_vectors(vectors: np.ndarray) -> np.ndarray:
    """Return the BLAKE2b hash of each float16 vector [n, D], uint64 [n]; of equal vectors equal.

    Two different vectors among N have one hash with a chance of N² / 2^65: 1 in 10,000 for 60 million.
    """
    # 0 and -0 are equal, but their bytes are not.
    plain = vectors + np.float16(0)
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in plain)
    return np.frombuffer(digests, np.uint64)


def count_equal(hashes: np.ndarray) -> tuple[int, int]:
    """Count, of sorted hashes, the vectors that belong to several sequences, and the sequences that these belong to."""
    if not len(hashes):
        return 0, 0
    starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    sizes = np.diff(starts, append=len(hashes))
    return int((sizes > 1).sum()), int(sizes[sizes > 1].sum())


def count_shared(hashes: np.ndarray, others: np.ndarray) -> int:
    """Count the hashes that are among others; both sorted."""
    if not len(others):
        return 0
    place = np.minimum(np.searchsorted(others, hashes), len(others) - 1)
    return int((others[place] == hashes).sum())


def add_counts(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Add two arrays of counts, of which one may be longer."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total
