"""Reuse stage: which sequences of the catalog have a vector in an earlier data set, and where.

Sequences are matched by digest, whatever their ids. Memory: some 50 bytes per row of the earlier data set while it is
read, 28 from then on, and 17 per reused sequence.
"""

import base64
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedome.catalog.rows import row_type
from embedome.catalog.table import read_catalog
from embedome.common.atomic_files import atomic_path
from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256, read_json, write_json
from embedome.common.log import Progress
from embedome.common.terms import DUPLICATE
from embedome.dataset.dataset import Dataset
from embedome.dataset.format import MANIFEST
from embedome.dataset.open import open_dataset
from embedome.parquet.reader import ParquetFile
from embedome.sequences.digests import DIGEST_CHARACTERS, hash_ids

log = logging.getLogger(__name__)


REUSED = pa.schema(
    [
        # Rows of the catalog, ascending; and the rows of the earlier data set, counted over the files of its manifest.
        pa.field("row", pa.int64(), nullable=False),
        pa.field("source_row", pa.int64(), nullable=False),
        # Whether the sequence had another id there.
        pa.field("renamed", pa.bool_(), nullable=False),
    ]
)


def find_reusable(
    catalog: str | os.PathLike,
    dataset: str | os.PathLike,
    *,
    reused: str | os.PathLike,
    summary: str | os.PathLike,
) -> dict:
    """Find the distinct sequences of the catalog that an earlier data set has vectors of.

    Parameters
    ----------
    catalog : path
        What the filter stage wrote.
    dataset : path
        The earlier data set, a folder.
    reused : path
        Parquet file of the `REUSED` schema.
    summary : path
        JSON file: sequences, those reused and those renamed among them, and what the earlier data set is; also
        returned.

    Raises
    ------
    UserError
        Where there is no data set, or one that rows cannot be taken from.
    """
    data = open_earlier(dataset)
    index = DigestIndex.of_dataset(data)
    counts = {"distinct": 0, "reused": 0, "renamed": 0}
    start = 0
    with atomic_path(reused) as path, pq.ParquetWriter(path, REUSED, compression="zstd") as writer:
        for table in read_catalog(catalog, ["id", "digest", "duplicate_of"]):
            rows = np.flatnonzero(table["duplicate_of"].is_null())
            source_rows, renamed = index.look_up(table.take(pa.array(rows)))
            hit = source_rows >= 0
            writer.write(pa.table([start + rows[hit], source_rows[hit], renamed[hit]], schema=REUSED))
            start += len(table)
            counts["distinct"] += len(rows)
            counts["reused"] += int(hit.sum())
            counts["renamed"] += int(renamed[hit].sum())
    earlier = {"manifest_sha256": file_sha256(data.folder / MANIFEST), "provenance": data.manifest["provenance"]}
    result = {"format": 1, **counts, "earlier": earlier}
    write_json(summary, result)
    log.info("%s of %s distinct sequences are in %s", f"{counts['reused']:,}", f"{counts['distinct']:,}", dataset)
    return result


def open_earlier(path: str | os.PathLike) -> Dataset:
    """Open a data set to take rows from.

    Raises
    ------
    UserError
        Where there is none, or one file, or one with per-residue embeddings.
    """
    data = open_dataset(path)
    if not (Path(path) / MANIFEST).is_file():
        raise UserError(f"{path}: not the folder of a data set; set reuse.dataset to null, or to one that is")
    if data.manifest["provenance"]["per_residue"]:
        raise UserError(f"{path}: has per-residue embeddings, which cannot be reused; set reuse.dataset to null")
    return data


@dataclass(frozen=True, slots=True)
class DigestIndex:
    """Rows by the first 16 bytes of their digests; two sequences that share these would be found out by merge."""

    first: np.ndarray
    """The first 8 bytes as numbers, ascending, uint64 [n]; `second` are the next 8, in the same order."""
    second: np.ndarray
    ids: np.ndarray
    """Hashes of the ids, uint64 [n]."""
    rows: np.ndarray
    """Of `rows.row_type`, [n]."""

    @classmethod
    def of_dataset(cls, data: Dataset) -> Self:
        """Index the rows of a data set that are no duplicates."""
        first, second, ids = (np.empty(len(data), np.uint64) for _ in range(3))
        rows = np.empty(len(data), row_type(len(data)))
        start = count = 0
        with Progress("index", "rows", len(data)) as progress:
            for table in data.tables(["id", "digest", "state"]):
                own = np.flatnonzero(pc.not_equal(table["state"], DUPLICATE))
                mine = table.take(pa.array(own))
                here = slice(count, count + len(own))
                first[here], second[here] = digest_keys(mine["digest"]).T
                ids[here], rows[here] = hash_ids(mine["id"], 0), start + own
                start, count = start + len(table), count + len(own)
                progress.update(len(table))
        order = np.argsort(first[:count], kind="stable")
        # One after the other, so that one copy at a time is made.
        first = first[order]
        second = second[order]
        ids = ids[order]
        return cls(first, second, ids, rows[order])

    def look_up(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that have the digests of a table, int64 [n], -1 for none, and whether their ids are others.

        Of two rows with the same first 8 bytes one is found.
        """
        if not len(self.first) or not len(table):
            return np.full(len(table), -1, np.int64), np.zeros(len(table), bool)
        keys = digest_keys(table["digest"])
        place = np.minimum(np.searchsorted(self.first, keys[:, 0]), len(self.first) - 1)
        hit = (self.first[place] == keys[:, 0]) & (self.second[place] == keys[:, 1])
        return np.where(hit, self.rows[place], -1), hit & (self.ids[place] != hash_ids(table["id"], 0))


def digest_keys(digests: pa.ChunkedArray) -> np.ndarray:
    """Return the first 16 bytes of refget digests as two numbers each, uint64 [n, 2]."""
    text = "".join(digests.to_pylist()).encode()
    codes = np.frombuffer(text, np.uint8).reshape(-1, DIGEST_CHARACTERS)[:, 3:]
    raw = base64.urlsafe_b64decode(codes.tobytes())
    return np.frombuffer(raw, ">u8").reshape(-1, 3)[:, :2].astype(np.uint64)


@dataclass(frozen=True, slots=True)
class Reuse:
    """What the reuse stage found, as the shard and merge stages read it."""

    rows: np.ndarray
    """Rows of the catalog, ascending, int64 [n]; the others are in their order."""
    source_rows: np.ndarray
    renamed: np.ndarray
    earlier: dict[str, Any]
    """Of the data set: `manifest_sha256` and `provenance`."""
    dataset: str | os.PathLike | None

    @classmethod
    def of_files(cls, files: Sequence[str], dataset: str | os.PathLike | None = None) -> Self | None:
        """Read the stage's files, `reused` and `summary`; where there are none, nothing is reused."""
        if not files:
            return None
        reused, summary = files
        account = read_json(summary)
        table = ParquetFile(reused).read(use_threads=False)
        if len(table) != account["reused"]:
            raise UserError(f"{reused}: {len(table):,} rows; expected {account['reused']:,}. Rerun the reuse stage")
        rows, source_rows, renamed = (table[name].to_numpy() for name in REUSED.names)
        return cls(rows, source_rows, renamed, account["earlier"], dataset)

    def open(self) -> Dataset:
        """Open the earlier data set.

        Raises
        ------
        UserError
            Where it is no longer the one that the reuse stage saw.
        """
        assert self.dataset is not None, "the stage that takes rows is told where they are"
        data = open_earlier(self.dataset)
        if file_sha256(data.folder / MANIFEST) != self.earlier["manifest_sha256"]:
            raise UserError(f"{self.dataset}: changed since the reuse stage; rerun that stage")
        return data
