"""Merge stage: verify every part of every shard against the catalog, and make the data set's files of them.

Nothing is visible before all of it is proven. Memory: a part per task, the rows of `DUPLICATE_ROWS` duplicates, and
the table of skipped sequences.
"""

import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

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
from embedome.dataset.format import (
    ALL_SKIPPED,
    COMMON_METADATA,
    KEYS,
    MANIFEST,
    METADATA,
    RESIDUES_FOLDER,
    SKIPPED_FILE,
    embedding_metadata,
    embedding_schema,
)
from embedome.dataset.manifest import OTHER_FILES, describe_bytes, write_manifest
from embedome.dataset.part_file import describe_file, embedding_sink, is_own_file
from embedome.dataset.provenance import check_same_vectors, worst_deviation
from embedome.dataset.reuse import Reuse
from embedome.merging.joined_files import FileTask, build_file, link_or_copy, plan_files
from embedome.merging.reused_rows import ReusedRows, merge_in_catalog_order, write_files
from embedome.merging.verified_parts import ListedPart, VerifiedPart, check_keys, list_parts
from embedome.parquet.id_lookup import find_in_files
from embedome.parquet.reader import ParquetFile, RowReader, rows_of_groups
from embedome.parquet.row_file import read_file
from embedome.splits.split_table import read_split_catalog

log = logging.getLogger(__name__)

DATASET_NAMES = re.compile(
    r"_(manifest|metadata|common_metadata|skipped)(\.\w+)?|README\.md|"
    r"(_residues/)?split=\w+/((part|duplicates)-[\d-]+(\.residues)?\.parquet)?"
)


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
        ``_common_metadata``, ``_skipped.parquet`` and ``_manifest.json``; vectors of residues, where the shards have
        them, in ``_residues/split=<split>/part-*.residues.parquet``.
    file_mb : float
        Megabytes. Parts in a row that are much smaller are joined into files of about this size; 0: all stay.
    reuse : Reuse, optional
        Sequences whose rows are taken from an earlier data set. New and reused rows are then written into files of
        `file_mb`, one after the other.
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
    account, file_bytes = read_json(shards), round(file_mb * 1_000_000)
    check_catalog(catalog, account.get("catalog_sha256"), shards)
    parts, provenance = list_parts([Path(path) for path in manifests], account)
    if reuse:
        provenance |= worst_deviation([provenance, reuse.earlier["provenance"]])
    workers = workers or DaskWorkers()
    with atomic_directory(dataset, check_own_dataset) as folder:
        merger = Merger(folder, catalog, splits, provenance, reuse)
        with workers.client() as client, Progress("merge", "parts", len(parts)) as progress:
            do = partial(map_in_order, client.get_executor(pure=False), ahead=workers.at_once + 1)
            for split in SPLITS:
                mine = [part for part in parts if part.split == split]
                merger.begin(split, progress)
                (merger.weave if reuse else merger.join)(split, mine, file_bytes, do)
                merger.end(split, account["reused"][split])
        for split in SPLITS:
            merger.write_duplicates(split)
        manifest = merger.finish()
    log.info("%s: %s rows in %d splits", dataset, f"{manifest['rows']:,}", len(SPLITS))
    return manifest


def check_own_dataset(folder: str | os.PathLike) -> None:
    """Refuse a folder that is no data set, or holds something else too, before it is replaced."""
    check_own_folder(folder, DATASET_NAMES, is_dataset)


def is_dataset(folder: Path) -> bool:
    """Whether all files of splits are in the manifest or say themselves that they are embedome's.

    Snakemake removes the manifest before the rule runs.
    """
    listed = (folder / MANIFEST).read_text(encoding="utf-8") if (folder / MANIFEST).is_file() else ""
    names = (path.relative_to(folder).as_posix() for path in folder.glob("**/split=*/*"))
    return all(f'"{name}"' in listed or is_own_file(folder / name) for name in names)


class Merger:
    """Builds the data set in a folder, split by split, and keeps its account."""

    def __init__(
        self,
        folder: Path,
        catalog: str | os.PathLike,
        splits: str | os.PathLike,
        provenance: dict[str, Any],
        reuse: Reuse | None,
    ) -> None:
        self.folder, self.catalog, self.splits, self.provenance = folder, catalog, splits, provenance
        self.reused_rows = reuse.rows if reuse else np.empty(0, np.int64)
        self.scratch = folder / "scratch"
        self.earlier: ReusedRows | None = None
        self.schema: pa.Schema | None = None
        self.census = count_rows(catalog, splits)
        self.states = {split: Counter() for split in SPLITS}
        self.reused = {split: Counter() for split in SPLITS}
        self.files: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self.residues: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self.skipped = [ALL_SKIPPED.empty_table()]
        for split in SPLITS:
            (folder / f"split={split}").mkdir()
        if reuse:
            check_same_vectors(reuse.earlier["provenance"], provenance)
            data = reuse.open()
            self.schema = data.schema
            self.scratch.mkdir()
            self.earlier = ReusedRows(data, reuse, catalog, splits, self.scratch)

    def rows(
        self, split: str, columns: Sequence[str] = CATALOG_COLUMNS, *, duplicates: bool, reused: bool = True
    ) -> Iterator[pa.Table]:
        """Yield the catalog's rows of a split: its duplicates, or its canonical ids, with those reused or without."""
        code, start = SPLITS.index(split), 0
        if not self.census[code, int(duplicates)]:
            return
        for table, codes in read_split_catalog(self.catalog, self.splits, columns):
            is_duplicate = table["duplicate_of"].is_valid().to_numpy()
            wanted = (codes == code) & (is_duplicate == duplicates)
            if not reused:
                first, last = np.searchsorted(self.reused_rows, [start, start + len(table)])
                wanted[self.reused_rows[first:last] - start] = False
            yield table.filter(wanted)
            start += len(table)

    def begin(self, split: str, progress: Progress) -> None:
        """Begin with a split's new sequences, which parts must now hold, each once and in order, and no other."""
        self.progress = progress
        rows = self.rows(split, [*KEYS.names, "duplicate_of"], duplicates=False, reused=False)
        self.expected = RowReader((table.select(KEYS.names).cast(KEYS) for table in rows), KEYS)

    def join(self, split: str, parts: list[ListedPart], file_bytes: int, do: Do) -> None:
        """Make the split's files of its parts."""
        groups = plan_files(parts, file_bytes)
        for built in do(build_file, (FileTask(self.folder, group, self.provenance) for group in groups)):
            for checked in built.parts:
                self.add(checked)
            self.files[split].append(built.entry)

    def weave(self, split: str, parts: list[ListedPart], file_bytes: int, do: Do) -> None:
        """Make the split's files of its parts and of rows of the earlier data set."""
        sources = [self.new_rows(parts, do), *(self.counted(split, rows) for rows in self.earlier.streams(split))]
        rows = merge_in_catalog_order(
            self.rows(split, duplicates=False), [RowReader(each, self.schema) for each in sources]
        )
        self.files[split] += write_files(self.folder, split, RowReader(rows, self.schema), file_bytes, self.provenance)

    def new_rows(self, parts: list[ListedPart], do: Do) -> Iterator[pa.Table]:
        """Check parts and yield their rows."""
        for checked in do(check_keys, parts):
            self.add(checked)
            yield read_file(checked.part.path)

    def counted(self, split: str, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Pass reused rows on, counted by state."""
        for table in tables:
            states = table["state"].to_pylist()
            self.states[split].update(states)
            self.reused[split].update(states)
            yield table

    def add(self, checked: VerifiedPart) -> None:
        """Add the part that comes next.

        Raises
        ------
        UserError
            At the first id that is missing, alien or has another sequence.
        """
        self.prove(checked)
        split = checked.part.split
        self.states[split].update(checked.states)
        self.add_skipped(split, checked.skipped)
        self.schema = embedding_schema(checked.dimension, self.provenance["pooling"])
        if checked.part.residues:
            self.link_residues(checked.part)
        self.progress.update(1)

    def prove(self, checked: VerifiedPart) -> None:
        """Compare a part's sequences with those that must come next."""
        keys = self.expected.take(len(checked.keys))
        if not keys.equals(checked.keys.combine_chunks()):
            pairs = zip(checked.keys.to_pylist(), [*keys.to_pylist(), None], strict=False)
            found, wanted = next(pair for pair in pairs if pair[0] != pair[1])
            raise checked.part.fault(f"has {found} where the catalog has {wanted}")

    def end(self, split: str, reused: int) -> None:
        """Check that nothing of the split is left.

        Raises
        ------
        UserError
            Names the first sequence that is, or says how many reused ones are missing.
        """
        if (found := sum(self.reused[split].values())) != reused:
            raise UserError(f"split {split}: {found:,} reused rows; expected {reused:,}. Rerun the reuse stage")
        if missing := self.expected.take(1).to_pylist():
            name = missing[0]["id"]
            raise UserError(f"split {split}: {name!r} and what follows is in no shard; rerun the shard stage")

    def link_residues(self, part: ListedPart) -> None:
        """Link a part's file of residues' vectors into the data set."""
        name = f"{RESIDUES_FOLDER}/split={part.split}/part-{part.residues.name}"
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(part.residues, self.folder / name)
        ends = {key: part.entry[key] for key in ("first_id", "last_id")}
        self.residues[part.split].append({**part.entry["per_residue"], **ends, "file": name})

    def add_skipped(self, split: str, skipped: pa.Table) -> None:
        """Note sequences that got no vector."""
        self.skipped.append(skipped.append_column("split", pa.array([split] * len(skipped), pa.string())))

    def write_duplicates(self, split: str) -> None:
        """Write a split's duplicates, each with its canonical row's vector, in files of bounded size."""
        reader = RowReader(self.rows(split, duplicates=True), DUPLICATE_SCHEMA)
        index = 0
        while len(rows := reader.take(DUPLICATE_ROWS)):
            table = self.with_vectors(split, rows)
            if len(table):
                name = f"split={split}/duplicates-{index:05d}.parquet"
                self.write_rows(split, name, table)
                index += 1

    def with_vectors(self, split: str, rows: pa.Table) -> pa.Table:
        """Give duplicates the vectors of their canonical ids, whatever split these are in; note the skipped ones."""
        wanted = sorted(set(rows["duplicate_of"].to_pylist()))
        files = [file for split in SPLITS for file in self.files[split]]
        canonical = find_in_files(self.folder, files, wanted, self.schema)
        table, lost = duplicate_rows(rows, canonical)
        if len(lost):
            self.add_skipped(split, skipped_duplicates(lost, pa.concat_tables(self.skipped)))
        return table

    def write_rows(self, split: str, name: str, table: pa.Table) -> None:
        """Write rows as one more file of the data set."""
        path = self.folder / name
        with embedding_sink(path, table.schema) as sink:
            sink.write(table)
            sink.describe(embedding_metadata(self.provenance))
        self.files[split].append({**describe_file(path, len(table), table["id"].to_pylist()), "file": name})
        self.states[split].update(table["state"].to_pylist())

    def finish(self) -> dict[str, Any]:
        """Write the metadata files and the manifest."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        skipped = pa.concat_tables(self.skipped).sort_by("id")
        pq.write_table(skipped, self.folder / SKIPPED_FILE, compression="zstd", use_dictionary=["reason", "split"])
        self.write_metadata()
        reasons = {
            split: dict(
                sorted(Counter(skipped.filter(pc.equal(skipped["split"], split))["reason"].to_pylist()).items())
            )
            for split in SPLITS
        }
        manifest = {
            "dimension": self.schema.field("embedding").type.list_size,
            "rows": sum(sum(states.values()) for states in self.states.values()),
            "splits": {
                split: {
                    "rows": sum(self.states[split].values()),
                    "states": dict(sorted(self.states[split].items())),
                    "reused": dict(sorted(self.reused[split].items())),
                    "skipped": reasons[split],
                    "files": self.files[split],
                    "residues": self.residues[split],
                }
                for split in SPLITS
            },
            OTHER_FILES: [describe_bytes(self.folder, name) for name in (COMMON_METADATA, METADATA, SKIPPED_FILE)],
            "provenance": self.provenance,
            "earlier": self.earlier and self.earlier.identity,
        }
        return write_manifest(self.folder, manifest)

    def write_metadata(self) -> None:
        """Write ``_metadata``, the footers of all files in one, and ``_common_metadata``, the schema.

        Each file's line in the manifest gets the rows of its row groups, so that readers need no footer to plan.
        """
        pq.write_metadata(self.schema, self.folder / COMMON_METADATA)
        footers = []
        for file in (file for split in SPLITS for file in self.files[split]):
            footer = ParquetFile(self.folder / file["file"]).metadata
            footer.set_file_path(file["file"])
            file["row_groups"] = rows_of_groups(footer)
            footers.append(footer)
        pq.write_metadata(self.schema, self.folder / METADATA, footers)


def count_rows(catalog: str | os.PathLike, splits: str | os.PathLike) -> np.ndarray:
    """Rows of the catalog by split (the last: in none), and by whether they are duplicates, int64 [4, 2]."""
    counts = np.zeros((len(SPLITS) + 1, 2), np.int64)
    for table, codes in read_split_catalog(catalog, splits, ["id", "duplicate_of"]):
        is_duplicate = table["duplicate_of"].is_valid().to_numpy()
        counts += np.bincount(2 * codes + is_duplicate, minlength=counts.size).reshape(counts.shape)
    return counts
