"""Merge stage: verify every part of every shard against the catalog, then link it into the data set.

Nothing is rewritten, and nothing is visible before all of it is proven. Memory: a part per worker, the rows of
`DUPLICATE_ROWS` duplicates, and the table of skipped sequences.
"""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedome.duplicates import CATALOG_COLUMNS, duplicate_rows, skipped_duplicates
from embedome.errors import UserError
from embedome.files import atomic_directory, file_sha256, read_json, write_json
from embedome.format import (
    COMMON_METADATA,
    FORMAT,
    KEYS,
    MANIFEST,
    METADATA,
    RESIDUES_FOLDER,
    SKIPPED,
    SKIPPED_FILE,
    describe_file,
    embedding_metadata,
    embedding_schema,
    embedding_sink,
    part_info,
    read_rows,
    vector_columns,
    vector_matrix,
)
from embedome.log import Progress
from embedome.lookup import find_in_files
from embedome.parallel import map_in_order
from embedome.split import SPLITS, read_split_catalog
from embedome.tables import RowReader, open_parquet
from embedome.workers import Workers

log = logging.getLogger(__name__)

DUPLICATE_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class ShardPart:
    """A part, as its shard's manifest lists it."""

    split: str
    path: Path
    manifest: Path
    entry: dict[str, Any]

    @property
    def name(self) -> str:
        """Its path in the data set."""
        return f"split={self.split}/part-{self.path.name}"

    @property
    def residues(self) -> Path | None:
        """Its file of residues' vectors, where there is one."""
        entry = self.entry["per_residue"]
        return entry and self.path.parent / entry["file"]

    def fault(self, what: str) -> UserError:
        """The error that says what is wrong with it and how to rebuild it alone."""
        return UserError(f"{self.path}: {what}; rebuild it: rm -f '{self.path}' '{self.manifest}' and run again")


@dataclass(frozen=True, slots=True)
class CheckedPart:
    """A part that is sound in itself: ids and digests of its sequences in id order, and the skipped among them."""

    part: ShardPart
    keys: pa.Table
    skipped: pa.Table
    states: Counter[str]
    # Not the schema: on its way between processes it loses which items of a list may be null.
    dimension: int


def merge_shards(
    manifests: Sequence[str | os.PathLike],
    shards: str | os.PathLike,
    catalog: str | os.PathLike,
    splits: str | os.PathLike,
    dataset: str | os.PathLike,
    *,
    workers: Workers | None = None,
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
    workers : Workers, optional
        What verifies parts, one task each; one thread of this process if not given.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    UserError
        Names the part that is missing, damaged, stale or not of its shard, and how to rebuild it.
    """
    parts, provenance = list_parts([Path(path) for path in manifests], read_json(shards))
    workers = workers or Workers()
    with atomic_directory(dataset) as folder:
        merger = Merger(folder, catalog, splits, provenance)
        with workers.client() as client, Progress("merge", "parts", len(parts)) as progress:
            pool = client.get_executor(pure=False)
            for split in SPLITS:
                mine = [part for part in parts if part.split == split]
                for checked in merger.prove(split, map_in_order(pool, check_part, mine, workers.at_once + 1)):
                    merger.link(checked)
                    progress.update(1)
        for split in SPLITS:
            merger.write_duplicates(split)
        manifest = merger.finish()
    log.info("%s: %s rows in %d splits", dataset, f"{manifest['rows']:,}", len(SPLITS))
    return manifest


def list_parts(manifests: Sequence[Path], shards: Mapping[str, Any]) -> tuple[list[ShardPart], dict[str, Any]]:
    """List the parts of all shards in order, with their common provenance.

    Raises
    ------
    UserError
        Where a shard is missing or stale, or shards were embedded in different ways.
    """
    found = {(path.parent.name, path.stem): path for path in manifests}
    parts: list[ShardPart] = []
    first: tuple[Path, dict[str, Any]] | None = None
    for split in SPLITS:
        for shard in shards["splits"][split]:
            path = found.pop((split, shard["shard"]), None)
            if path is None or not path.is_file():
                raise UserError(f"split {split}: shard {shard['shard']} has no manifest; run the embed stage")
            manifest = read_manifest(path, shard)
            first = first or (path, manifest["provenance"])
            if manifest["provenance"] != first[1]:
                raise UserError(
                    f"{path}: embedded in another way than {first[0]}; "
                    f"rebuild both: rm -f '{path}' '{first[0]}' and run again"
                )
            parts += [ShardPart(split, path.parent / entry["file"], path, entry) for entry in manifest["parts"]]
    if found:
        raise UserError(f"{next(iter(found.values()))}: not one of the shards in shards.json; leave it out")
    if first is None or not parts:
        raise UserError("there is no embedded sequence to merge")
    return parts, first[1]


def read_manifest(path: Path, shard: Mapping[str, Any]) -> dict[str, Any]:
    """Read a shard's manifest.

    Raises
    ------
    UserError
        Where it is not one, or not of the shard's sequences, each of them.
    """
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path}: not a shard's manifest of format {FORMAT}; rm -f '{path}' and run again")
    if manifest["content_sha256"] != shard["content_sha256"]:
        raise UserError(f"{path}: made from other sequences than the shard's; rm -f '{path}' and run again")
    held = sum(entry["sequences"] for entry in manifest["parts"])
    if held != shard["sequences"]:
        raise UserError(
            f"{path}: its parts hold {held:,} sequences, the shard {shard['sequences']:,}; "
            f"rebuild them: rm -f '{path.with_suffix('')}'-*.parquet '{path}' and run again"
        )
    return manifest


def check_part(part: ShardPart) -> CheckedPart:
    """Check that a part's file is the one its manifest tells of, and sound.

    Raises
    ------
    UserError
        Where it is missing, changed or damaged, holds a vector that is not finite, or ids out of order.
    """
    if not part.path.is_file():
        raise part.fault("missing")
    if file_sha256(part.path) != part.entry["sha256"]:
        raise part.fault("changed since it was written (its sha256 is not the manifest's)")
    info = part_info(part.path)
    if info.fingerprint != part.entry["fingerprint"]:
        raise part.fault("of another run (its fingerprint is not the manifest's)")
    table = read_rows(part.path)
    if len(table) != part.entry["rows"] or len(table) + len(info.skipped) != part.entry["sequences"]:
        raise part.fault(f"{len(table)} rows and {len(info.skipped)} skipped; expected {part.entry['sequences']}")
    for column in vector_columns(info.provenance["pooling"]).values():
        if len(table) and not np.isfinite(vector_matrix(table[column])).all():
            raise part.fault("a vector is not finite")
    check_residues(part, info.residues_sha256)
    skipped = pa.Table.from_pylist(info.skipped, SKIPPED)
    keys = pa.concat_tables([table.select(KEYS.names).cast(KEYS), skipped.select(KEYS.names)]).sort_by("id")
    ids = table["id"].combine_chunks()
    if not pc.all(pc.less(ids[:-1], ids[1:]), min_count=0).as_py():
        raise part.fault("ids out of order")
    return CheckedPart(part, keys, skipped, Counter(table["state"].to_pylist()), info.dimension)


def check_residues(part: ShardPart, sha256: str | None) -> None:
    """Check that a part's file of residues' vectors is the one that was written and read back with it."""
    if part.residues is None:
        return
    if not part.residues.is_file():
        raise part.fault(f"its file {part.residues.name} is missing")
    if file_sha256(part.residues) != sha256:
        raise part.fault(f"its file {part.residues.name} changed since it was written")


class Merger:
    """Builds the data set in a folder, split by split, and keeps its account."""

    def __init__(
        self,
        folder: Path,
        catalog: str | os.PathLike,
        splits: str | os.PathLike,
        provenance: dict[str, Any],
    ) -> None:
        self.folder, self.catalog, self.splits, self.provenance = folder, catalog, splits, provenance
        self.schema: pa.Schema | None = None
        self.states = {split: Counter() for split in SPLITS}
        self.files: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self.residues: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self.skipped: list[pa.Table] = []
        for split in SPLITS:
            (folder / f"split={split}").mkdir()

    def rows(self, split: str, *, duplicates: bool) -> Iterator[pa.Table]:
        """Yield the catalog's rows of a split: its canonical ids, or its duplicates."""
        code = SPLITS.index(split)
        for table, codes in read_split_catalog(self.catalog, self.splits, CATALOG_COLUMNS):
            is_duplicate = table["duplicate_of"].is_valid().to_numpy()
            yield table.filter((codes == code) & (is_duplicate == duplicates))

    def prove(self, split: str, checked: Iterable[CheckedPart]) -> Iterator[CheckedPart]:
        """Pass parts on, as long as they hold the split's distinct sequences, each once and in order, and no other.

        Raises
        ------
        UserError
            At the first id that is missing, alien or has another sequence.
        """
        canonical = (table.select(KEYS.names).cast(KEYS) for table in self.rows(split, duplicates=False))
        expected = RowReader(canonical, KEYS)
        for each in checked:
            keys = expected.take(len(each.keys))
            if not keys.equals(each.keys.combine_chunks()):
                pairs = zip(each.keys.to_pylist(), [*keys.to_pylist(), None], strict=False)
                found, wanted = next(pair for pair in pairs if pair[0] != pair[1])
                raise each.part.fault(f"has {found} where the catalog has {wanted}")
            yield each
        if missing := expected.take(1).to_pylist():
            name = missing[0]["id"]
            raise UserError(f"split {split}: {name!r} and what follows is in no shard; rerun the shard stage")

    def link(self, checked: CheckedPart) -> None:
        """Put a proven part into the data set."""
        part = checked.part
        link_or_copy(part.path, self.folder / part.name)
        keep = ("rows", "first_id", "last_id", "bytes", "sha256")
        self.files[part.split].append({"file": part.name, **{key: part.entry[key] for key in keep}})
        if part.residues:
            name = f"{RESIDUES_FOLDER}/split={part.split}/part-{part.residues.name}"
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(part.residues, self.folder / name)
            ends = {key: part.entry[key] for key in ("first_id", "last_id")}
            self.residues[part.split].append({**part.entry["per_residue"], **ends, "file": name})
        self.states[part.split].update(checked.states)
        self.schema = embedding_schema(checked.dimension, self.provenance["pooling"])
        self.add_skipped(part.split, checked.skipped)

    def add_skipped(self, split: str, skipped: pa.Table) -> None:
        """Note sequences that got no vector."""
        self.skipped.append(skipped.append_column("split", pa.array([split] * len(skipped), pa.string())))

    def write_duplicates(self, split: str) -> None:
        """Write a split's duplicates, each with its canonical row's vector, in files of bounded size."""
        reader = RowReader(self.rows(split, duplicates=True), self.duplicate_schema())
        index = 0
        while len(rows := reader.take(DUPLICATE_ROWS)):
            table = self.with_vectors(split, rows)
            if len(table):
                name = f"split={split}/duplicates-{index:05d}.parquet"
                self.write_rows(split, name, table)
                index += 1

    def duplicate_schema(self) -> pa.Schema:
        """Schema of the catalog columns read."""
        return next(self.rows(SPLITS[0], duplicates=True)).schema

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
            "format": FORMAT,
            "dimension": self.schema.field("embedding").type.list_size,
            "rows": sum(sum(states.values()) for states in self.states.values()),
            "splits": {
                split: {
                    "rows": sum(self.states[split].values()),
                    "states": dict(sorted(self.states[split].items())),
                    "skipped": reasons[split],
                    "files": self.files[split],
                    "residues": self.residues[split],
                }
                for split in SPLITS
            },
            "provenance": self.provenance,
        }
        write_json(self.folder / MANIFEST, manifest)
        return manifest

    def write_metadata(self) -> None:
        """Write ``_metadata``, the footers of all files in one, and ``_common_metadata``, the schema."""
        pq.write_metadata(self.schema, self.folder / COMMON_METADATA)
        footers = []
        for file in (file for split in SPLITS for file in self.files[split]):
            footer = open_parquet(self.folder / file["file"]).metadata
            footer.set_file_path(file["file"])
            footers.append(footer)
        pq.write_metadata(self.schema, self.folder / METADATA, footers)


def link_or_copy(path: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that cannot be."""
    try:
        os.link(path, target)
    except OSError as error:
        log.info("%s: copied, as it cannot be linked (%s)", path, error.strerror)
        shutil.copyfile(path, target)
