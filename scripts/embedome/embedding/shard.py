"""Shard stage: FASTA files of contiguous id ranges that cost the same predicted time, in one pass over the catalog.

Memory: some 50 bytes per record, for costs and cuts; text passes through.
"""

import hashlib
import itertools
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.table import check_catalog, has_structure
from embedome.common.errors import UserError
from embedome.common.json_files import read_json, write_json
from embedome.common.log import Progress
from embedome.common.parallel import look_ahead
from embedome.common.terms import SPLITS, STRUCTURE
from embedome.dataset.reuse import Reuse
from embedome.embedding.cost import MAX_TOTAL_PICOSECONDS, PICOSECONDS, CostModel
from embedome.embedding.shard_files import shard_files, shard_name
from embedome.sequences.fasta import join_text
from embedome.splits.split_table import read_split_catalog

log = logging.getLogger(__name__)


def write_shards(
    catalog: str | os.PathLike,
    splits: str | os.PathLike,
    split_summary: str | os.PathLike,
    n_shards: Mapping[str, int],
    cost: CostModel,
    *,
    folder: str | os.PathLike,
    summary: str | os.PathLike,
    reuse: Reuse | None = None,
) -> dict:
    """Write the distinct sequences of each split as `n_shards[split]` gzipped FASTA files.

    Duplicates are left out: they get their canonical sequence's vector at merge. A shard may be empty where
    there are fewer sequences than shards.

    Parameters
    ----------
    catalog, splits, split_summary : path
        What the filter and split stages wrote.
    n_shards : mapping of str to int
        Number of shards of each split.
    cost : CostModel
        Predicted seconds of a sequence.
    folder : path
        For ``<split>/<NNNNN>.fasta.gz``.
    summary : path
        JSON file (shards.json) with range, count, residues, predicted seconds and digest of each; also returned.
    reuse : Reuse, optional
        Sequences that are left out, too, as an earlier data set has their vectors.

    Raises
    ------
    UserError
        Where catalog and splits do not belong together.
    """
    account = read_json(split_summary)
    check_catalog(catalog, account.get("catalog_sha256"), split_summary)
    owners, reused = assign_shards(catalog, splits, n_shards, cost, reuse)
    shards = {name: [Shard() for _ in range(n_shards[name])] for name in SPLITS}
    with (
        shard_files(Path(folder), n_shards) as files,
        Progress("shard", "sequences", account["kept"]) as progress,
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as accountant,
    ):
        for count, slices in look_ahead(reader, cut_tables(catalog, splits, owners, cost)):
            # Digests take nearly as long as compression does.
            counted = accountant.submit(add_up, shards, slices)
            for each in slices:
                files.writer(each.code, each.shard).write(each.text)
            counted.result()
            progress.update(count)
    result = {
        "format": 1,
        "cost": asdict(cost),
        "splits": {
            name: [{"shard": shard_name(i), **shard.as_json()} for i, shard in enumerate(shards[name])]
            for name in SPLITS
        },
        "reused": reused,
        "earlier": reuse and reuse.earlier,
        "catalog_sha256": account.get("catalog_sha256"),
    }
    check_counts(result, account)
    write_json(summary, result)
    for name in SPLITS:
        seconds = [shard["predicted_s"] for shard in result["splits"][name]]
        log.info("%s: %d shards of %.0f to %.0f predicted seconds", name, len(seconds), min(seconds), max(seconds))
    return result


class Slice(NamedTuple):
    """Sequences in a row that go into one shard."""

    code: int
    """Of `SPLITS`."""
    shard: int
    sequences: int
    residues: int
    picoseconds: int
    first_id: str
    last_id: str
    text: memoryview
    """FASTA."""
    content: memoryview
    """``id LF content LF`` of each sequence, as `Record.content`."""


@dataclass(slots=True)
class Shard:
    """The account of one shard."""

    sequences: int = 0
    residues: int = 0
    picoseconds: int = 0
    first_id: str | None = None
    last_id: str | None = None
    content: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, part: Slice) -> None:
        """Count sequences."""
        self.sequences += part.sequences
        self.residues += part.residues
        self.picoseconds += part.picoseconds
        self.first_id = self.first_id or part.first_id
        self.last_id = part.last_id
        self.content.update(part.content)

    def as_json(self) -> dict:
        """Return the account; `content_sha256` is over ``id LF content LF`` of each, whatever the compression."""
        return {
            "sequences": self.sequences,
            "residues": self.residues,
            "predicted_s": self.picoseconds / PICOSECONDS,
            "first_id": self.first_id,
            "last_id": self.last_id,
            "content_sha256": self.content.hexdigest(),
        }


def add_up(shards: Mapping[str, list[Shard]], slices: list[Slice]) -> None:
    """Count slices to their shards."""
    for each in slices:
        shards[SPLITS[each.code]][each.shard].add(each)


def cut_tables(
    catalog: str | os.PathLike, splits: str | os.PathLike, owners: np.ndarray, cost: CostModel
) -> Iterator[tuple[int, list[Slice]]]:
    """Read the catalog, and yield the rows of each row group as slices of shards, with their number."""
    start = 0
    columns = ["id", "description", "length", "sequence", *([STRUCTURE] if has_structure(catalog) else [])]
    for table, codes in read_split_catalog(catalog, splits, columns):
        mine = owners[start : start + len(table)]
        start += len(table)
        slices: list[Slice] = []
        for code in range(len(SPLITS)):
            rows = (codes == code) & (mine >= 0)
            if rows.any():
                slices += cut_rows(code, mine[rows], table.filter(pa.array(rows)), cost)
        yield len(table), slices


def cut_rows(code: int, owners: np.ndarray, table: pa.Table, cost: CostModel) -> Iterator[Slice]:
    """Cut rows of one split where the shard [n] changes."""
    lengths = table["length"].to_numpy().astype(np.int64)
    costs = cost.picoseconds(lengths)
    name, description, sequence = (
        table[column].combine_chunks().cast(pa.large_string()) for column in ("id", "description", "sequence")
    )
    empty, end = pa.scalar("", pa.large_string()), pa.scalar("\n", pa.large_string())
    space = pc.if_else(pc.equal(description, ""), empty, pa.scalar(" ", pa.large_string()))
    mark = pa.scalar(">", pa.large_string())
    lines, letters = [sequence, end], [sequence]
    if STRUCTURE in table.column_names:
        states = table[STRUCTURE].combine_chunks()
        # In upper case, as lines of residues: such records are read at once.
        lines, letters = [*lines, states, end], [sequence, pc.ascii_lower(states)]
    text, text_at = join_text(mark, name, space, description, end, *lines, empty)
    content, content_at = join_text(name, end, *letters, end, empty)
    cuts = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(owners)]
    for first, last in itertools.pairwise(cuts):
        yield Slice(
            code,
            int(owners[first]),
            last - first,
            int(lengths[first:last].sum()),
            int(costs[first:last].sum()),
            name[first].as_py(),
            name[last - 1].as_py(),
            text[text_at[first] : text_at[last]],
            content[content_at[first] : content_at[last]],
        )


def assign_shards(
    catalog: str | os.PathLike,
    splits: str | os.PathLike,
    n_shards: Mapping[str, int],
    cost: CostModel,
    reuse: Reuse | None,
) -> tuple[np.ndarray, dict[str, int]]:
    """Return the shard of each catalog row within its split, -1 where it is in none; and how many are reused.

    Returns
    -------
    owners : numpy.ndarray, dtype=int32, shape=(n,)
    reused : dict of str to int
        By split.
    """
    codes, costs = [np.empty(0, np.int8)], [np.empty(0, np.int64)]
    for table, split in read_split_catalog(catalog, splits, ["id", "length", "duplicate_of"]):
        codes.append(np.where(table["duplicate_of"].is_null().to_numpy(), split, -1).astype(np.int8))
        costs.append(cost.picoseconds(table["length"].to_numpy()))
    code_of, cost_of = np.concatenate(codes), np.concatenate(costs)
    rows = reuse.rows if reuse else np.empty(0, np.int64)
    reused = {name: int((code_of[rows] == code).sum()) for code, name in enumerate(SPLITS)}
    code_of[rows] = -1
    cost_of[code_of < 0] = 0
    if (total := cost_of.sum(dtype=np.float64)) > MAX_TOTAL_PICOSECONDS:
        raise UserError(
            f"cost: {total / PICOSECONDS / 86400:,.0f} days are predicted for all sequences, more than can be counted "
            f"({MAX_TOTAL_PICOSECONDS / PICOSECONDS / 86400:.0f}); lower cost.linear and cost.quadratic alike, "
            "only their ratio matters for the cuts"
        )
    owners = np.full(len(code_of), -1, np.int32)
    for code, name in enumerate(SPLITS):
        mine = code_of == code
        owners[mine] = equal_cost_shards(cost_of[mine], n_shards[name])
    return owners, reused


def equal_cost_shards(costs: np.ndarray, n_shards: int) -> np.ndarray:
    """Cut a row of costs into contiguous shards of equal cost.

    A sequence belongs to the shard in which the middle of its cost falls.

    Parameters
    ----------
    costs : numpy.ndarray, dtype=int64, shape=(n,)
    n_shards : int

    Returns
    -------
    numpy.ndarray, dtype=int32, shape=(n,)
        Index of each sequence's shard, ascending.
    """
    if not len(costs):
        return np.empty(0, np.int32)
    ends = np.cumsum(costs)
    total = int(ends[-1])
    cuts = np.array([total * k // n_shards for k in range(1, n_shards)], np.int64)
    # In place: these arrays are what the stage's memory grows by.
    halves = costs + 1
    halves >>= 1
    ends -= halves
    del halves
    return np.searchsorted(cuts, ends, side="right").astype(np.int32)


def check_counts(result: dict, account: dict) -> None:
    """Fail where the shards do not hold exactly the distinct sequences of their split."""
    for name, shards in result["splits"].items():
        split = account["splits"][name]
        distinct = split["sequences"] - split["duplicates"]
        held = sum(shard["sequences"] for shard in shards) + result["reused"][name]
        if held != distinct:
            raise UserError(
                f"split {name}: {held:,} sequences in shards or reused, but {distinct:,} distinct ones in the split's "
                "summary; rerun the split stage"
            )
