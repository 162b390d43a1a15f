"""The parts of a shard: what goes into one, what it is written as, and whether it is written already.

A part is final when it is written. One that has the fingerprint it would be written with is left alone.
"""

import glob
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedome.common.atomic_files import find_temporaries
from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256, json_sha256
from embedome.common.terms import OUT_OF_MEMORY, STRUCTURE
from embedome.dataset.format import (
    KEYS,
    SKIPPED,
    embedding_metadata,
    embedding_schema,
    find_vector_names,
    residue_schema,
    vector_columns,
)
from embedome.dataset.part_file import (
    describe_file,
    is_own_file,
    part_info,
    read_rows,
    residues_path,
    write_part,
    write_residues,
)
from embedome.dataset.provenance import lasting
from embedome.embedding.cost import PICOSECONDS
from embedome.embedding.settings import PartLimits
from embedome.engine.engine import Embedded
from embedome.parquet.vectors import residues_column, vector_array
from embedome.sequences.digests import REFGET_PREFIX, STRUCTURE_PREFIX, refget_digests
from embedome.sequences.headers import parse_descriptions
from embedome.sequences.records import Record

# Residues of a part at most, whatever its predicted time, and bytes of its per-residue embeddings, if any:
# what bounds memory.
PART_RESIDUES = 256 << 20
PART_RESIDUE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Part:
    """A part to embed: its records and the fingerprint of all that goes into it."""

    path: Path
    records: list[Record]
    provenance: dict[str, Any]
    fingerprint: str

    @property
    def residues(self) -> int:
        """Residues of its sequences."""
        return sum(len(record.sequence) for record in self.records)


@dataclass(frozen=True, slots=True)
class EmbeddedPart:
    """What a part was embedded to."""

    embedded: Embedded
    recomputed: list[str]
    """Ids whose vectors were not finite and were recomputed in float32."""


def fingerprint(provenance: Mapping[str, Any], records: list[Record]) -> str:
    """Return the digest of all that goes into a part: lasting provenance, and ids, descriptions and contents."""
    lines = [b"%s\n%s\n%s\n" % (each.id.encode(), each.description.encode(), each.content) for each in records]
    return json_sha256({"provenance": lasting(provenance), "content": hashlib.sha256(b"".join(lines)).hexdigest()})


def most_residues(provenance: Mapping[str, Any], dimension: int) -> int:
    """Return the most residues of a part, by what it holds of each: half floats, or of averaged windows, floats."""
    if not provenance["per_residue"]:
        return PART_RESIDUES
    size = 4 if provenance["long_sequences"] == "window" else 2
    return min(PART_RESIDUES, PART_RESIDUE_BYTES // (size * dimension))


def cut_parts(records: Iterable[Record], limits: PartLimits, most: int) -> Iterator[list[Record]]:
    """Cut records into parts of bounded number, predicted time and residues; each has one record at least."""

    @cache
    def predict(length: int) -> int:
        return int(limits.cost.picoseconds(np.array([length]))[0])

    rows: list[Record] = []
    cost = residues = 0
    for record in records:
        length = len(record.sequence)
        full = (
            len(rows) == limits.sequences
            or cost + predict(length) > limits.seconds * PICOSECONDS
            or residues + length > most
        )
        if rows and full:
            yield rows
            rows, cost, residues = [], 0, 0
        rows.append(record)
        cost += predict(length)
        residues += length
    if rows:
        yield rows


def is_written(part: Part) -> bool:
    """Return whether the part's files exist, whole, of the same fingerprint, and lack nothing for want of memory."""
    try:
        info = part_info(part.path)
        if info.fingerprint != part.fingerprint or any(row["reason"] == OUT_OF_MEMORY for row in info.skipped):
            return False
        read_rows(part.path)
    except UserError:
        return False
    residues = residues_path(part.path)
    return info.residues_sha256 is None or (residues.is_file() and file_sha256(residues) == info.residues_sha256)


def write(part: Part, result: EmbeddedPart) -> None:
    """Write a part's files, the one that makes it final last.

    Where another job has written the part meanwhile, its files stay: their digests may be recorded already, and
    vectors of other batches differ in the last bits.
    """
    embedded = result.embedded
    kept = np.flatnonzero(~embedded.skipped)
    table, skipped = part_tables(part, embedded)
    already_written = partial(is_written, part)
    digest = None
    if embedded.residues is not None:
        dimension = next(iter(embedded.vectors.values())).shape[1]
        states = residues_column([embedded.residues[index] for index in kept], dimension)
        rows = pa.table([table["id"], table["digest"], states], schema=residue_schema(dimension))
        digest = write_residues(residues_path(part.path), rows, part.provenance, already_written)
    metadata = embedding_metadata(part.provenance, skipped, part.fingerprint, result.recomputed, digest)
    write_part(part.path, table, metadata, already_written)


def part_tables(part: Part, embedded: Embedded) -> tuple[pa.Table, pa.Table]:
    """Return the rows of a part and its table of skipped sequences."""
    headers = parse_descriptions(pa.array([record.description for record in part.records], pa.string()))
    names = find_vector_names(part.provenance)
    columns = vector_columns(names)
    prefix = STRUCTURE_PREFIX if part.provenance.get(STRUCTURE) else REFGET_PREFIX
    vectors = {columns[name]: vector_array(matrix) for name, matrix in embedded.vectors.items()}
    schema = embedding_schema(next(iter(embedded.vectors.values())).shape[1], names)
    table = pa.table(
        {
            "id": [record.id for record in part.records],
            "digest": refget_digests((record.content for record in part.records), prefix),
            "length": pa.array([len(record.sequence) for record in part.records], pa.int32()),
            "n_residues_used": embedded.used,
            "state": embedded.state.astype(object),
            "taxid": headers["taxid"],
            "n_members": headers["n_members"],
            **vectors,
        }
    )
    skipped = table.filter(embedded.skipped).rename_columns({"state": "reason"})
    return table.filter(~embedded.skipped).cast(schema), skipped.select(SKIPPED.names).cast(SKIPPED)


def part_entry(part: Part) -> dict[str, Any]:
    """Read a written part back and describe it.

    Raises
    ------
    UserError
        Where it does not hold each of the part's sequences once, embedded or skipped.
    """
    rows = read_rows(part.path, ["id", "state"])
    ids = rows["id"].to_pylist()
    info = part_info(part.path)
    skipped = [row["id"] for row in info.skipped]
    if (sorted(ids + skipped) if skipped else ids) != [record.id for record in part.records]:
        raise UserError(f"{part.path}: its ids are not those of the shard; delete it and run again")
    return {
        **describe_file(part.path, len(rows), ids),
        "fingerprint": part.fingerprint,
        "sequences": len(part.records),
        "residues": sum(len(record.sequence) for record in part.records),
        "states": dict(Counter(rows["state"].to_pylist())),
        "skipped": dict(Counter(row["reason"] for row in info.skipped)),
        "recomputed": len(info.recomputed),
        "per_residue": residues_entry(part, info.residues_sha256, ids),
    }


def residues_entry(part: Part, sha256: str | None, ids: list[str]) -> dict[str, Any] | None:
    """Return the manifest entry of a part's file of per-residue embeddings, where it has one."""
    if sha256 is None:
        return None
    path = residues_path(part.path)
    if read_rows(path, KEYS.names)["id"].to_pylist() != ids:
        raise UserError(f"{path}: its ids are not those of {part.path.name}; delete both and run again")
    return {"file": path.name, "rows": len(ids), "bytes": path.stat().st_size, "sha256": sha256}


def remove_other_parts(manifest: Path, names: set[str]) -> None:
    """Remove parts of the shard that an earlier configuration cut differently, or with more in them.

    And what killed processes left of this one's: a part's own writer sweeps too, but may be killed before it does.
    """
    stem = f"{glob.escape(manifest.stem)}-?????"
    for pattern in (f"{stem}.parquet", f"{stem}.residues.parquet"):
        for path in find_temporaries(manifest.parent, pattern):
            path.unlink(missing_ok=True)
        for path in manifest.parent.glob(pattern):
            if path.name not in names and is_own_file(path):
                path.unlink(missing_ok=True)
