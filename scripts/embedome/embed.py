"""Embed stage: one shard, part by part, on one device.

A part is final when it is written. A run that finds a part with the fingerprint it would write leaves it alone, so
a killed run loses the part under way and nothing else. Memory is that of one part.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedome import __version__
from embedome.cost import PICOSECONDS, CostModel
from embedome.engine import Embedded, Engine, LongPolicy, Sequences
from embedome.errors import UserError
from embedome.fasta import read_blocks, read_entries
from embedome.files import glob_escape, json_sha256, write_json
from embedome.format import SKIPPED, describe_file, embedding_schema, part_info, read_rows, vector_array, write_part
from embedome.headers import parse_description
from embedome.ledger import add_up
from embedome.log import Progress
from embedome.models import load_model, model_identity
from embedome.parallel import map_in_order
from embedome.records import Record, check_entry, refget_digest

log = logging.getLogger(__name__)

# Raised when the engine's numbers change: parts written before are then not used again.
NUMERICS_VERSION = 1
# Residues of a part at most, whatever its predicted time: what bounds memory.
PART_RESIDUES = 256 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """What changes the numbers of an embedding, beside the model.

    Parameters
    ----------
    dtype : str
        ``float32`` or ``bfloat16``.
    long_sequences : str
        ``truncate``, ``window`` or ``skip``.
    overlap, max_residues : int
        As in `engine.LongPolicy`.
    """

    dtype: str = "float32"
    long_sequences: str = "truncate"
    overlap: int = 0
    max_residues: int | None = None

    @property
    def policy(self) -> LongPolicy:
        """What to do with long sequences."""
        return LongPolicy(self.long_sequences, self.overlap, self.max_residues)


@dataclass(frozen=True, slots=True)
class PartLimits:
    """How much a part holds at most; from configuration alone, so that every run cuts the same parts.

    Parameters
    ----------
    sequences : int
    seconds : float
        Predicted by `cost`.
    cost : CostModel
    """

    sequences: int
    seconds: float
    cost: CostModel


def settings_of(embed: Mapping[str, Any], cost: Mapping[str, Any]) -> dict[str, Any]:
    """The `settings` and `limits` arguments from the configuration's sections `embed` and `cost`."""
    return {
        "settings": Settings(embed["dtype"], embed["long_sequences"], embed["overlap"], embed["max_residues"]),
        "limits": PartLimits(embed["part_sequences"], embed["part_seconds"], CostModel(**cost)),
    }


@dataclass(frozen=True, slots=True)
class Part:
    """A part to embed: its records and the fingerprint of all that goes into it."""

    path: Path
    records: list[Record]
    provenance: dict[str, Any]
    fingerprint: str


def embed_shard(
    fasta: str | os.PathLike,
    model: str | os.PathLike,
    manifest: str | os.PathLike,
    *,
    settings: Settings,
    limits: PartLimits,
    source: Mapping[str, Any],
    device: str = "cpu",
) -> dict:
    """Embed the sequences of a shard; write its part files and, last, their manifest.

    Parameters
    ----------
    fasta : path
        A shard as the shard stage writes it.
    model : path
        Model directory.
    manifest : path
        JSON file ``<shard>.json``; the parts ``<shard>-<PPPPP>.parquet`` lie beside it.
    settings : Settings
    limits : PartLimits
    source : mapping
        Where the sequences come from, for the provenance: plain JSON, free of local paths and times.
    device : str
        ``cpu`` or ``cuda``.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    UserError
        Where the shard is not one, the model directory is not whole, or the device is not there.
    """
    manifest = Path(manifest)
    result = embed_records(
        shard_records(fasta), model, manifest, settings=settings, limits=limits, source=source, device=device
    )
    write_json(manifest, result)
    log.info("%s sequences: %s", f"{result['sequences']:,}", result["states"] | result["skipped"])
    return result


def shard_records(fasta: str | os.PathLike) -> Iterator[Record]:
    """Read a shard file; none of its records may be faulty.

    Raises
    ------
    UserError
        At a faulty record.
    """
    if is_empty_shard(fasta):
        return
    for entry in read_entries(fasta):
        record = check_entry(entry)
        if record.reason:
            raise UserError(f"{fasta}: record {entry.number}: {record.reason} ({record.detail}); rerun the shard stage")
        yield record


def is_empty_shard(fasta: str | os.PathLike) -> bool:
    """Whether a shard got no sequence, as there were fewer than shards."""
    return next(read_blocks(fasta), None) is None


def embed_records(
    records: Iterable[Record],
    model: str | os.PathLike,
    manifest: Path,
    *,
    settings: Settings,
    limits: PartLimits,
    source: Mapping[str, Any],
    device: str,
    workers: int = 1,
    total: int | None = None,
) -> dict:
    """Embed records that come in id order into parts beside `manifest`; give the manifest.

    As `embed_shard`; `workers` processes embed one part each, `total` is the number of records, where known.
    """
    provenance = make_provenance(model, settings, source)
    if provenance["model"]["trained"] is False:
        log.warning("%s is an untrained model: its vectors have no biological meaning", provenance["model"]["name"])
    content = hashlib.sha256()
    entries: list[dict[str, Any]] = []

    def parts() -> Iterator[Part]:
        for index, rows in enumerate(cut_parts(records, limits)):
            for record in rows:
                content.update(b"%s\n%s\n" % (record.id.encode(), record.sequence))
            path = manifest.with_name(f"{manifest.stem}-{index:05d}.parquet")
            yield Part(path, rows, provenance, fingerprint(provenance, rows))

    work = partial(embed_part, model=str(model), settings=settings, device=device)
    with Progress(f"embed {manifest.stem}", "sequences", total) as progress:
        for entry in run_in_order(work, parts(), workers):
            entries.append(entry)
            progress.update(entry["sequences"])
    remove_other_parts(manifest, {entry["file"] for entry in entries})
    return {
        "format": 1,
        "shard": manifest.stem,
        "provenance": provenance,
        "sequences": sum(entry["sequences"] for entry in entries),
        "residues": sum(entry["residues"] for entry in entries),
        "content_sha256": content.hexdigest(),
        "states": add_up(entry["states"] for entry in entries),
        "skipped": add_up(entry["skipped"] for entry in entries),
        "parts": entries,
    }


def make_provenance(model: str | os.PathLike, settings: Settings, source: Mapping[str, Any]) -> dict[str, Any]:
    """What the vectors come from: part of every file, and equal wherever it is made."""
    return {
        "embedome": __version__,
        "numerics": NUMERICS_VERSION,
        "model": model_identity(model),
        "layer": "last",
        "pooling": "mean",
        **asdict(settings),
        "source": dict(source),
    }


def fingerprint(provenance: Mapping[str, Any], records: list[Record]) -> str:
    """Digest of all that goes into a part: provenance, and ids, descriptions and sequences."""
    content = hashlib.sha256()
    for record in records:
        content.update(b"%s\n%s\n%s\n" % (record.id.encode(), record.description.encode(), record.sequence))
    return json_sha256({"provenance": provenance, "content": content.hexdigest()})


def cut_parts(records: Iterable[Record], limits: PartLimits) -> Iterator[list[Record]]:
    """Cut records into parts of bounded number, predicted time and residues; each has one record at least."""
    rows: list[Record] = []
    cost = residues = 0
    for record in records:
        length = len(record.sequence)
        own_cost = int(limits.cost.picoseconds(np.array([length]))[0])
        full = (
            len(rows) == limits.sequences
            or cost + own_cost > limits.seconds * PICOSECONDS
            or residues + length > PART_RESIDUES
        )
        if rows and full:
            yield rows
            rows, cost, residues = [], 0, 0
        rows.append(record)
        cost += own_cost
        residues += length
    if rows:
        yield rows


def run_in_order(work: Callable[[Part], dict], parts: Iterable[Part], workers: int) -> Iterator[dict]:
    """Do the work on each part, here or in `workers` processes; results in order, few parts in memory at a time."""
    if workers == 1:
        yield from map(work, parts)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        try:
            yield from map_in_order(pool, work, parts, workers + 1)
        except BrokenProcessPool:
            raise UserError("a worker process was killed, perhaps for want of memory; use fewer workers") from None


def embed_part(part: Part, model: str, settings: Settings, device: str) -> dict[str, Any]:
    """Embed a part, unless its file is there already; give its line in the manifest."""
    if is_written(part):
        log.info("%s is there already", part.path.name)
    else:
        engine = load_engine(model, json_sha256(part.provenance["model"]), settings, device)
        sequences = Sequences.join([record.sequence for record in part.records])
        table, skipped = part_tables(part.records, sequences, engine.embed(sequences))
        write_part(part.path, table, skipped, part.provenance, part.fingerprint)
    return part_entry(part)


@cache
def load_engine(model: str, identity: str, settings: Settings, device: str) -> Engine:
    """Load the model once per process, and again where the directory's `identity` has changed."""
    return Engine(load_model(model), device=device, dtype=settings.dtype, policy=settings.policy)


def is_written(part: Part) -> bool:
    """Whether the part's file is there, whole and of the same fingerprint."""
    try:
        if part_info(part.path).fingerprint != part.fingerprint:
            return False
        read_rows(part.path)
    except UserError:
        return False
    return True


def part_tables(records: list[Record], sequences: Sequences, embedded: Embedded) -> tuple[pa.Table, pa.Table]:
    """The rows of a part and its table of skipped sequences."""
    headers = [parse_description(record.description) for record in records]
    schema = embedding_schema(embedded.vectors.shape[1])
    lengths = pa.array(sequences.lengths, pa.int32())
    table = pa.table(
        {
            "id": [record.id for record in records],
            "digest": [refget_digest(record.sequence) for record in records],
            "length": lengths,
            "n_residues_used": embedded.used,
            "state": embedded.state.astype(object),
            "taxid": pa.array([header.taxid for header in headers], pa.int32()),
            "n_members": pa.array([header.n_members for header in headers], pa.int32()),
            "embedding": vector_array(embedded.vectors),
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
    skipped = part_info(part.path).skipped
    if sorted([*ids, *(row["id"] for row in skipped)]) != sorted(record.id for record in part.records):
        raise UserError(f"{part.path}: its ids are not those of the shard; delete it and run again")
    return {
        **describe_file(part.path, len(rows), ids),
        "fingerprint": part.fingerprint,
        "sequences": len(part.records),
        "residues": sum(len(record.sequence) for record in part.records),
        "states": dict(Counter(rows["state"].to_pylist())),
        "skipped": dict(Counter(row["reason"] for row in skipped)),
    }


def remove_other_parts(manifest: Path, names: set[str]) -> None:
    """Remove parts of the shard that an earlier configuration cut differently."""
    for path in manifest.parent.glob(f"{glob_escape(manifest.stem)}-?????.parquet"):
        if path.name not in names:
            path.unlink(missing_ok=True)
