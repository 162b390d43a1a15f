"""Merge stage: verify every part of every shard against the catalog, and make the data set's files of them.

Nothing is visible before all of it is proven. Memory: a part per task, the rows of `DUPLICATE_ROWS` duplicates, and
the table of skipped sequences.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedome.catalog.table import CATALOG, check_catalog
from embedome.common.atomic_files import atomic_directory
from embedome.common.dask_workers import DaskWorkers
from embedome.common.errors import UserError
from embedome.common.json_files import read_json
from embedome.common.log import Progress
from embedome.common.outputs import check_own_folder
from embedome.common.parallel import map_in_order
from embedome.common.terms import SPLITS
from embedome.dataset.duplicates import CATALOG_COLUMNS, duplicate_rows, skipped_duplicates
from embedome.dataset.format import KEYS, MANIFEST, RESIDUES_FOLDER, embedding_metadata
from embedome.dataset.part_file import describe_file, embedding_sink, is_own_file, part_info
from embedome.dataset.provenance import check_same_vectors, worst_deviation
from embedome.dataset.reuse import Reuse
from embedome.merging.account import SplitAccount, concat_skipped, write_account
from embedome.merging.data_card import RecordCounts
from embedome.merging.joined_files import FileTask, build_file, link_or_copy, plan_files
from embedome.merging.reused_rows import ReusedRows, merge_in_catalog_order, write_files
from embedome.merging.verified_parts import ListedPart, VerifiedPart, check_keys, list_parts
from embedome.parquet.id_lookup import find_in_files
from embedome.parquet.reader import RowReader
from embedome.parquet.row_file import read_file
from embedome.splits.split_table import read_split_catalog

log = logging.getLogger(__name__)

DATASET_NAMES = re.compile(
    r"_(manifest|metadata|common_metadata|skipped)(\.\w+)?|_?README\.md|\.huggingface\.yaml|"
    r"(_residues/)?split=\w+/((part|duplicates)-[\d-]+(\.residues)?\.parquet)?"
)

# Of a merge that reuses rows, in the folder that becomes the data set.
SCRATCH = "scratch"

DUPLICATE_ROWS = 100_000
DUPLICATE_SCHEMA = pa.schema([CATALOG.field(name) for name in CATALOG_COLUMNS])

# Maps a function over items in a pool, results in order.
Do = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


def merge_shards(
    manifests: Sequence[str | os.PathLike],
    shards: str | os.PathLike,
    catalog: str | os.PathLike,
    splits: str | os.PathLike,
    dataset: str | os.PathLike,
    *,
    file_mb: float = 0,
    reuse: Reuse | None = None,
    summaries: Mapping[str, str | os.PathLike] | None = None,
    workers: DaskWorkers | None = None,
) -> dict:
    """Verify the shards' parts and publish them as one data set.

    Parameters
    ----------
    manifests : sequence of paths
        ``<split>/<shard>.json`` of every shard.
    shards, catalog, splits : path
        What the stages before wrote: the sequences that must be there.
    dataset : path
        Folder, put in place whole: ``split=<split>/part-*.parquet`` and ``duplicates-*.parquet``, ``_metadata``,
        ``_common_metadata``, ``_skipped.parquet``, ``_manifest.json``, and the data card, ``_README.md`` and
        ``.huggingface.yaml``; per-residue embeddings, where the shards have them, in
        ``_residues/split=<split>/part-*.residues.parquet``.
    file_mb : float
        Megabytes. Parts in a row that are much smaller are joined into files of about this size; 0: all stay.
    reuse : Reuse, optional
        Sequences whose rows are taken from an earlier data set. New and reused rows are then written into files of
        `file_mb`, one after the other.
    summaries : mapping, optional
        What the stages ``filter`` and ``split`` counted, JSON files, for the data card.
    workers : DaskWorkers, optional
        What verifies parts, one task for each file; one thread of this process if not given.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    UserError
        Names the part that is missing, damaged, stale or not of its shard, and how to rebuild it.
    """
    account = read_json(shards)
    check_catalog(catalog, account.get("catalog_sha256"), shards)
    counted = {stage: read_json(path) for stage, path in (summaries or {}).items()}
    records = RecordCounts.of_summaries(counted["filter"], counted["split"]) if counted else None
    parts, provenance = list_parts([Path(path) for path in manifests], account)
    if reuse:
        provenance |= worst_deviation([provenance, reuse.earlier["provenance"]])
    workers = workers or DaskWorkers()
    with atomic_directory(dataset, check_own_dataset) as folder:
        merge = begin_merge(folder, catalog, splits, provenance, round(file_mb * 1_000_000), reuse)
        with workers.client() as client, Progress("merge", "parts", len(parts)) as progress:
            do = partial(map_in_order, client.get_executor(pure=False), ahead=workers.at_once + 1)
            verified = [merge_split(merge, split, parts, account["reused"][split], do, progress) for split in SPLITS]
        schema = merge.earlier.data.schema if merge.earlier else part_info(parts[0].path).schema
        accounts = [one + write_duplicates(merge, one.split, schema, verified) for one in verified]
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        earlier = merge.earlier.identity if merge.earlier else None
        manifest = write_account(folder, schema, accounts, provenance, earlier, records)
    log.info("%s: %s rows in %d splits", dataset, f"{manifest['rows']:,}", len(SPLITS))
    return manifest


def check_own_dataset(folder: str | os.PathLike) -> None:
    """Refuse a folder that is no data set, or holds something else too, before it is replaced."""
    check_own_folder(folder, DATASET_NAMES, is_dataset)


def is_dataset(folder: Path) -> bool:
    """Return whether all files of splits are in the manifest or say themselves that they are embedome's.

    Snakemake removes the manifest before the rule runs.
    """
    listed = (folder / MANIFEST).read_text(encoding="utf-8") if (folder / MANIFEST).is_file() else ""
    names = (path.relative_to(folder).as_posix() for path in folder.glob("**/split=*/*"))
    return all(f'"{name}"' in listed or is_own_file(folder / name) for name in names)


@dataclass(frozen=True, slots=True)
class Merge:
    """What is merged, and the folder that it is merged into."""

    folder: Path
    catalog: str | os.PathLike
    splits: str | os.PathLike
    provenance: dict[str, Any]
    file_bytes: int
    counts: np.ndarray
    """Rows of the catalog, as `count_rows` returns them."""
    reused: np.ndarray
    """Rows of the catalog that an earlier data set has, ascending, int64 [n]."""
    earlier: ReusedRows | None
    """Their rows there; None where nothing is reused."""


def begin_merge(
    folder: Path,
    catalog: str | os.PathLike,
    splits: str | os.PathLike,
    provenance: dict[str, Any],
    file_bytes: int,
    reuse: Reuse | None,
) -> Merge:
    """Make the folders of the splits, and open the earlier data set.

    Raises
    ------
    UserError
        Where rows of the earlier data set cannot be taken.
    """
    counts = count_rows(catalog, splits)
    for split in SPLITS:
        (folder / f"split={split}").mkdir()
    if reuse is None:
        return Merge(folder, catalog, splits, provenance, file_bytes, counts, np.empty(0, np.int64), None)
    check_same_vectors(reuse.earlier["provenance"], provenance)
    data = reuse.open()
    (folder / SCRATCH).mkdir()
    earlier = ReusedRows(data, reuse, catalog, splits, folder / SCRATCH)
    return Merge(folder, catalog, splits, provenance, file_bytes, counts, reuse.rows, earlier)


def merge_split(
    merge: Merge, split: str, parts: Iterable[ListedPart], reused: int, do: Do, progress: Progress
) -> SplitAccount:
    """Make a split's files of its parts, and of `reused` rows of the earlier data set.

    Raises
    ------
    UserError
        Where the parts do not hold the split's new sequences, each once and in order, and no other; where there are
        fewer reused rows, or more.
    """
    account, expected = SplitAccount(split), expected_keys(merge, split)
    parts = [part for part in parts if part.split == split]
    if merge.earlier:
        new = read_new_rows(merge, do(check_keys, parts), expected, account, progress)
        write_with_reused(merge, merge.earlier, new, account)
    else:
        groups = plan_files(parts, merge.file_bytes)
        for built in do(build_file, (FileTask(merge.folder, group, merge.provenance) for group in groups)):
            for part in built.parts:
                add_part(merge, part, expected, account, progress)
            account.files.append(built.entry)
    if (found := account.reused.total()) != reused:
        raise UserError(f"split {split}: {found:,} reused rows; expected {reused:,}. Rerun the reuse stage")
    if missing := expected.take(1).to_pylist():
        name = missing[0]["id"]
        raise UserError(f"split {split}: {name!r} and what follows is in no shard; rerun the shard stage")
    return account


def expected_keys(merge: Merge, split: str) -> RowReader:
    """Read ids and digests of a split's new sequences, which its parts must hold."""
    rows = read_split(merge, split, [*KEYS.names, "duplicate_of"], duplicates=False, reused=False)
    return RowReader((table.select(KEYS.names).cast(KEYS) for table in rows), KEYS)


def read_split(
    merge: Merge, split: str, columns: Sequence[str] = CATALOG_COLUMNS, *, duplicates: bool, reused: bool = True
) -> Iterator[pa.Table]:
    """Yield the catalog's rows of a split: its duplicates, or its canonical ids, with those reused or without."""
    code, start = SPLITS.index(split), 0
    if not merge.counts[code, int(duplicates)]:
        return
    for table, codes in read_split_catalog(merge.catalog, merge.splits, columns):
        is_duplicate = table["duplicate_of"].is_valid().to_numpy()
        wanted = (codes == code) & (is_duplicate == duplicates)
        if not reused:
            first, last = np.searchsorted(merge.reused, [start, start + len(table)])
            wanted[merge.reused[first:last] - start] = False
        yield table.filter(wanted)
        start += len(table)


def read_new_rows(
    merge: Merge, verified: Iterable[VerifiedPart], expected: RowReader, account: SplitAccount, progress: Progress
) -> Iterator[pa.Table]:
    """Add parts, and yield their rows."""
    for part in verified:
        add_part(merge, part, expected, account, progress)
        yield read_file(part.part.path)


def add_part(
    merge: Merge, verified: VerifiedPart, expected: RowReader, account: SplitAccount, progress: Progress
) -> None:
    """Add the part that comes next to its split's account, and its file of per-residue embeddings to the data set.

    Raises
    ------
    UserError
        At the first id that is missing, alien or has another sequence.
    """
    check_expected(verified, expected.take(len(verified.keys)))
    account.states.update(verified.states)
    account.skipped.append(verified.skipped)
    if verified.part.residues:
        account.residues.append(link_residues(merge.folder, verified.part, verified.part.residues))
    progress.update(1)


def check_expected(verified: VerifiedPart, expected: pa.Table) -> None:
    """Compare a part's sequences with those that must come next."""
    if not expected.equals(verified.keys.combine_chunks()):
        pairs = zip(verified.keys.to_pylist(), [*expected.to_pylist(), None], strict=False)
        found, wanted = next(pair for pair in pairs if pair[0] != pair[1])
        raise verified.part.fault(f"has {found} where the catalog has {wanted}")


def link_residues(folder: Path, part: ListedPart, residues: Path) -> dict[str, Any]:
    """Link a part's file of per-residue embeddings into the data set; return its entry in the manifest."""
    name = f"{RESIDUES_FOLDER}/split={part.split}/part-{residues.name}"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    link_or_copy(residues, folder / name)
    ends = {key: part.entry[key] for key in ("first_id", "last_id")}
    return {**part.entry["per_residue"], **ends, "file": name}


def write_with_reused(merge: Merge, earlier: ReusedRows, new: Iterable[pa.Table], account: SplitAccount) -> None:
    """Write a split's new rows and those of the earlier data set into files, in the order of the catalog."""
    schema = earlier.data.schema
    reused = (count_reused(rows, account) for rows in earlier.streams(account.split))
    catalog = read_split(merge, account.split, duplicates=False)
    rows = RowReader(merge_in_catalog_order(catalog, [new, *reused], schema), schema)
    account.files.extend(write_files(merge.folder, account.split, rows, merge.file_bytes, merge.provenance))


def count_reused(tables: Iterable[pa.Table], account: SplitAccount) -> Iterator[pa.Table]:
    """Pass reused rows on, counted by state."""
    for table in tables:
        states = table["state"].to_pylist()
        account.states.update(states)
        account.reused.update(states)
        yield table


def write_duplicates(merge: Merge, split: str, schema: pa.Schema, verified: Sequence[SplitAccount]) -> SplitAccount:
    """Write a split's duplicates in files of bounded size, each with its canonical row's vector.

    That row is in any of the splits in `verified`. Duplicates of a skipped sequence are skipped, too.
    """
    account = SplitAccount(split)
    canonical = [file for each in verified for file in each.files]
    reader = RowReader(read_split(merge, split, duplicates=True), DUPLICATE_SCHEMA)
    while len(rows := reader.take(DUPLICATE_ROWS)):
        wanted = sorted(set(rows["duplicate_of"].to_pylist()))
        table, lost = duplicate_rows(rows, find_in_files(merge.folder, canonical, wanted, schema))
        if len(lost):
            account.skipped.append(skipped_duplicates(lost, concat_skipped(verified)))
        if len(table):
            name = f"split={split}/duplicates-{len(account.files):05d}.parquet"
            account.files.append(write_rows(merge.folder, name, table, merge.provenance))
            account.states.update(table["state"].to_pylist())
    return account


def write_rows(folder: Path, name: str, table: pa.Table, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Write rows as a file of the data set; return its entry in the manifest."""
    with embedding_sink(folder / name, table.schema) as sink:
        sink.write(table)
        sink.describe(embedding_metadata(provenance))
    return {**describe_file(folder / name, len(table), table["id"].to_pylist()), "file": name}


def count_rows(catalog: str | os.PathLike, splits: str | os.PathLike) -> np.ndarray:
    """Count the catalog's rows by split (the last: in none), and by whether they are duplicates, int64 [4, 2]."""
    counts = np.zeros((len(SPLITS) + 1, 2), np.int64)
    for table, codes in read_split_catalog(catalog, splits, ["id", "duplicate_of"]):
        is_duplicate = table["duplicate_of"].is_valid().to_numpy()
        counts += np.bincount(2 * codes + is_duplicate, minlength=counts.size).reshape(counts.shape)
    return counts
