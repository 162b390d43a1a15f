"""The parts that the embed stage wrote: listed from the shards' manifests, each checked in itself."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256, read_json
from embedome.common.terms import SPLITS
from embedome.dataset.format import KEYS, SKIPPED, find_vector_names
from embedome.dataset.part_file import part_info, vectors_finite
from embedome.dataset.provenance import lasting, worst_deviation
from embedome.parquet.file_format import FILE_FORMAT
from embedome.parquet.row_file import read_file


@dataclass(frozen=True, slots=True)
class ListedPart:
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
        """Its file of per-residue embeddings, where there is one."""
        entry = self.entry["per_residue"]
        return entry and self.path.parent / entry["file"]

    def fault(self, what: str) -> UserError:
        """Return the error that says what is wrong with it and how to rebuild it alone."""
        return UserError(f"{self.path}: {what}; rebuild it: rm -f '{self.path}' '{self.manifest}' and run again")


@dataclass(frozen=True, slots=True)
class VerifiedPart:
    """A part that is sound in itself: ids and digests of its sequences in id order, and the skipped among them."""

    part: ListedPart
    keys: pa.Table
    skipped: pa.Table
    states: Counter[str]


def list_parts(manifests: Sequence[Path], shards: Mapping[str, Any]) -> tuple[list[ListedPart], dict[str, Any]]:
    """List the parts of all shards in order, with their common provenance; none where all sequences are reused.

    In int8 the deviation from float32 is the worst of all shards.

    Raises
    ------
    UserError
        Where a shard is missing or stale, or shards were embedded in different ways.
    """
    found = {(path.parent.name, path.stem): path for path in manifests}
    parts: list[ListedPart] = []
    provenances: list[dict[str, Any]] = []
    first: tuple[Path, dict[str, Any]] | None = None
    for split in SPLITS:
        for shard in shards["splits"][split]:
            path = found.pop((split, shard["shard"]), None)
            if path is None or not path.is_file():
                raise UserError(f"split {split}: shard {shard['shard']} has no manifest; run the embed stage")
            manifest = read_manifest(path, shard)
            first = first or (path, manifest["provenance"])
            if lasting(manifest["provenance"]) != lasting(first[1]):
                raise UserError(
                    f"{path}: embedded in another way than {first[0]}; "
                    f"rebuild both: rm -f '{path}' '{first[0]}' and run again"
                )
            provenances.append(manifest["provenance"])
            parts += [ListedPart(split, path.parent / entry["file"], path, entry) for entry in manifest["parts"]]
    if found:
        raise UserError(f"{next(iter(found.values()))}: not one of the shards in shards.json; leave it out")
    if first is None or not (parts or any(shards["reused"].values())):
        raise UserError("there is no embedded sequence to merge")
    return parts, first[1] | worst_deviation(provenances)


def read_manifest(path: Path, shard: Mapping[str, Any]) -> dict[str, Any]:
    """Read a shard's manifest.

    Raises
    ------
    UserError
        Where it is not one, or not of the shard's sequences, each of them.
    """
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FILE_FORMAT:
        raise UserError(f"{path}: not a shard's manifest of format {FILE_FORMAT}; rm -f '{path}' and run again")
    if manifest["content_sha256"] != shard["content_sha256"]:
        raise UserError(f"{path}: made from other sequences than the shard's; rm -f '{path}' and run again")
    held = sum(entry["sequences"] for entry in manifest["parts"])
    if held != shard["sequences"]:
        raise UserError(
            f"{path}: its parts hold {held:,} sequences, the shard {shard['sequences']:,}; "
            f"rebuild them: rm -f '{path.with_suffix('')}'-*.parquet '{path}' and run again"
        )
    return manifest


def check_part(part: ListedPart) -> tuple[VerifiedPart, pa.Table]:
    """Check that a part's file is the one in its manifest, and sound; return its rows, too.

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
    table = read_file(part.path)
    if len(table) != part.entry["rows"] or len(table) + len(info.skipped) != part.entry["sequences"]:
        raise part.fault(f"{len(table)} rows and {len(info.skipped)} skipped; expected {part.entry['sequences']}")
    if not vectors_finite(table, find_vector_names(info.provenance)):
        raise part.fault("a vector is not finite")
    check_residues(part, info.residues_sha256)
    skipped = pa.Table.from_pylist(info.skipped, SKIPPED)
    keys = table.select(KEYS.names).cast(KEYS)
    if len(skipped):
        keys = pa.concat_tables([keys, skipped.select(KEYS.names)]).sort_by("id")
    ids = table["id"].combine_chunks()
    if not pc.all(pc.less(ids[:-1], ids[1:]), min_count=0).as_py():
        raise part.fault("ids out of order")
    return VerifiedPart(part, keys, skipped, Counter(table["state"].to_pylist())), table


def check_keys(part: ListedPart) -> VerifiedPart:
    """As `check_part`, without the rows: these need not travel between processes."""
    return check_part(part)[0]


def check_residues(part: ListedPart, sha256: str | None) -> None:
    """Check that a part's file of per-residue embeddings is the one that was written and read back with it."""
    if part.residues is None:
        return
    if not part.residues.is_file():
        raise part.fault(f"its file {part.residues.name} is missing")
    if file_sha256(part.residues) != sha256:
        raise part.fault(f"its file {part.residues.name} changed since it was written")
