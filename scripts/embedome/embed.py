"""Embed stage: one shard, part by part, on one device.

A run that finds a part with the fingerprint it would write leaves it alone, so a killed run loses the parts under way
and nothing else: the one on the device and the one being written, or with several processes one each. While one part
runs on the device, the next is read and laid out, and the last is fetched and written: memory is that of three parts.
"""

import gc
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embedome import __version__
from embedome.columns import check_chunk
from embedome.devices import room_for
from embedome.engine import INT8, NON_FINITE, Embedded, Engine, Running
from embedome.errors import UserError
from embedome.fasta import BLOCK_BYTES, read_blocks, read_chunks
from embedome.files import json_sha256, read_json, write_json
from embedome.format import DEVIATION, FORMAT, part_info, worst_deviation
from embedome.layout import Layout, lay_out
from embedome.ledger import add_up
from embedome.log import Progress
from embedome.metrics import DEVICE, READING, WRITING, Clock, write_metrics
from embedome.models import Model, empty_model, load_model, model_dimension, model_identity
from embedome.parallel import ahead, map_in_order, process_pool, thread
from embedome.parts import (
    Part,
    Written,
    cut_parts,
    fingerprint,
    is_written,
    most_residues,
    part_entry,
    remove_other_parts,
    write,
)
from embedome.pieces import Sequences
from embedome.records import Record
from embedome.reuse import check_same_vectors
from embedome.settings import PartLimits, Settings
from embedome.tokenizer import STANDARD

log = logging.getLogger(__name__)

# Raised when the engine's numbers change: parts written before are then not used again.
NUMERICS_VERSION = 4
# What to do where memory runs out.
LARGER_DEVICE = "run again on a device with more memory; finished parts are kept"
SMALLER_PARTS = f"{LARGER_DEVICE}. Or lower embed.part_sequences, which cuts all parts anew"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how parts are run: what does not change the numbers.

    Parameters
    ----------
    device : str
        ``cpu`` or ``cuda``.
    attempt : int
        As in `engine.Engine`.
    workers : int
        Processes that embed one part each.
    """

    device: str = "cpu"
    attempt: int = 1
    workers: int = 1

    @classmethod
    def of_job(cls, resources: Mapping[str, Any]) -> "Machine":
        """The machine of a job: a GPU where it asked for one, by ``gpu`` or ``gres``.

        The variable EMBEDOME_DEVICE says otherwise, for trying out a cluster without GPUs.
        """
        device = "cuda" if resources.get("gpu") or "gpu" in str(resources.get("gres", "")) else "cpu"
        if chosen := os.environ.get("EMBEDOME_DEVICE"):
            log.warning("EMBEDOME_DEVICE is set: running on %s, not on %s", chosen, device)
            device = chosen
        elif device == "cpu" and torch.cuda.is_available():
            log.warning("there is a GPU, but this job did not ask for one; see docs/cluster.md, One machine with a GPU")
        return cls(device, resources.get("attempt", 1))


def embed_shard(
    fasta: str | os.PathLike,
    model: str | os.PathLike,
    manifest: str | os.PathLike,
    *,
    settings: Settings,
    limits: PartLimits,
    source: Mapping[str, Any],
    machine: Machine = Machine(),
    shards: str | os.PathLike | None = None,
    metrics: str | os.PathLike | None = None,
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
    machine : Machine
    shards : path, optional
        The shard stage's summary, which says how much there is to do.
    metrics : path, optional
        JSON Lines file for what the shard cost, see docs/performance.md.

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
    clock = Clock()
    total = shard_total(shards, manifest) if shards else None
    if settings.per_residue and total:
        announce_size(total["residues"], model_dimension(model))
    result = embed_records(
        shard_records(fasta),
        model,
        manifest,
        settings=settings,
        limits=limits,
        source=source,
        machine=machine,
        total=total and total["sequences"],
        earlier=read_json(shards)["earlier"] if shards else None,
        clock=clock,
    )
    if metrics:
        used = (str(model), json_sha256(result["provenance"]["model"]), settings, machine)
        write_metrics(metrics, result, clock, load_engine(*used) if clock.seconds[DEVICE] else None)
    write_json(manifest, result)
    log.info("%s sequences: %s", f"{result['sequences']:,}", result["states"] | result["skipped"])
    return result


def shard_total(shards: str | os.PathLike, manifest: Path) -> dict[str, Any]:
    """What the shard stage says of a shard: sequences and residues."""
    listed = read_json(shards)["splits"][manifest.parent.name]
    return next(shard for shard in listed if shard["shard"] == manifest.stem)


def announce_size(residues: int, dimension: int) -> None:
    """Say how large the vectors of so many residues are, before they are made."""
    log.info("vectors of %s residues will take up to %.1f GB", f"{residues:,}", 2e-9 * dimension * residues)


def shard_records(fasta: str | os.PathLike) -> Iterator[Record]:
    """Read a shard file; none of its records may be faulty.

    Raises
    ------
    UserError
        At a faulty record.
    """
    if is_empty_shard(fasta):
        return
    for chunk in read_chunks(fasta, BLOCK_BYTES):
        records = check_chunk(fasta, chunk)
        if records.faulty:
            number, record = min(records.faulty.items())
            raise UserError(f"{fasta}: record {number}: {record.reason} ({record.detail}); rerun the shard stage")
        yield from records.sound()


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
    machine: Machine = Machine(),
    total: int | None = None,
    earlier: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
) -> dict:
    """Embed records that come in id order into parts beside `manifest`; give the manifest.

    As `embed_shard`; `total` is the number of records, where known, and `earlier` the data set that others are
    taken from: it must have been embedded in the same way.
    """
    provenance = make_provenance(model, settings, source)
    if earlier:
        check_same_vectors(earlier["provenance"], provenance)
    if provenance["model"]["trained"] is False:
        log.warning("%s is an untrained model: its vectors have no biological meaning", provenance["model"]["name"])
    content = hashlib.sha256()
    entries: list[dict[str, Any]] = []

    def parts() -> Iterator[Part]:
        most = most_residues(provenance, model_dimension(model))
        for index, rows in enumerate(cut_parts(records, limits, most)):
            content.update(b"".join([b"%s\n%s\n" % (record.id.encode(), record.sequence) for record in rows]))
            path = manifest.with_name(f"{manifest.stem}-{index:05d}.parquet")
            yield Part(path, rows, provenance, fingerprint(provenance, rows))

    work = Work(str(model), settings, machine, clock or Clock())
    with Progress(f"embed {manifest.stem}", "sequences", total) as progress:
        for entry in work.run(parts()):
            entries.append(entry)
            progress.update(entry["sequences"])
    files = [entry["file"] for entry in entries]
    files += [entry["per_residue"]["file"] for entry in entries if entry["per_residue"]]
    remove_other_parts(manifest, set(files))
    if DEVIATION in provenance:
        # Parts that were there already may have been embedded on another machine.
        infos = [part_info(manifest.with_name(entry["file"])) for entry in entries]
        provenance |= worst_deviation([provenance, *(info.provenance for info in infos)])
    return {
        "format": FORMAT,
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
    """What the vectors come from: part of every file, and equal wherever it is made, but for `format.MEASURED`."""
    identity = model_identity(model)
    return {
        "embedome": __version__,
        "numerics": NUMERICS_VERSION,
        "model": identity,
        **asdict(settings),
        "pooling": list(settings.pooling),
        **({DEVIATION: int8_deviation(str(model), json_sha256(identity), settings)} if settings.dtype == INT8 else {}),
        "source": dict(source),
    }


def int8_deviation(model: str, identity: str, settings: Settings) -> dict[str, float]:
    """How far vectors in int8 are from those in float32, on some random sequences: the worst of all."""
    chance, residues = np.random.default_rng(0), np.frombuffer(STANDARD.encode(), np.uint8)
    pooled = replace(settings, per_residue=False)
    reference = engine_of(model, replace(pooled, dtype="float32"), Machine())
    lengths = np.minimum(np.arange(8, 72, 4), reference.max_residues).tolist()
    sequences = Sequences.join([chance.choice(residues, length).tobytes() for length in lengths])
    exact = reference.embed(sequences).vectors
    # This one is kept: where vectors of residues are not asked for, it is the one that goes on to embed.
    found = load_engine(model, identity, pooled, Machine()).embed(sequences).vectors
    cosines, differences = [], []
    for name, vectors in exact.items():
        one, other = vectors.astype(np.float64), found[name].astype(np.float64)
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        cosines.append((one * other).sum(1) / norms)
        differences.append(np.abs(one - other))
    return {
        "min_cosine": round(float(np.min(cosines)), 5),
        "max_abs": round(float(np.max(differences)), 4),
    }


@dataclass(frozen=True, slots=True)
class Work:
    """What is done to each part.

    Parameters
    ----------
    model : str
        Model directory.
    settings : Settings
    machine : Machine
    clock : Clock
    """

    model: str
    settings: Settings
    machine: Machine
    clock: Clock

    def run(self, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
        """Embed parts, here or in processes; their lines in the manifest, in order, few parts in memory at a time."""
        if self.machine.workers == 1:
            yield from self.run_here(parts)
            return
        with process_pool(self.machine.workers, __name__) as pool:
            job = OnePart(self.model, self.settings, replace(self.machine, workers=1))
            yield from map_in_order(pool, job, self.clock.items(READING, parts), self.machine.workers + 1)

    def run_here(self, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
        """Embed parts one after the other: one is laid out ahead, one run, one fetched and written at a time.

        What is made anew is so by this thread, which a signal interrupts.
        """
        with thread() as reader, thread() as writer:
            laid_out = ahead(reader, self.clock.items(READING, map(self.lay_out, parts)))
            running = (self.run_part(*each) for each in laid_out)
            for part, unfinished, entry in map_in_order(writer, self.finish, running, 2):
                yield entry or self.store(part, self.recompute(part, unfinished))

    def lay_out(self, part: Part) -> tuple[Part, Layout | None]:
        """Lay a part's sequences out, unless it is written already."""
        if is_written(part):
            log.info("%s is there already", part.path.name)
            return part, None
        model = described(self.model, json_sha256(part.provenance["model"]), self.settings.features)
        policy = self.settings.policy
        with room_for_part(part):
            sequences = Sequences.join([record.sequence for record in part.records])
            return part, lay_out(sequences, model.tokenizer, policy, policy.longest(model.max_residues))

    def run_part(self, part: Part, layout: Layout | None) -> tuple[Part, Running | None]:
        """Run a part. Batches that do not fit are made smaller; what all have in common must fit."""
        if layout is None:
            return part, None
        with room_for("the model", LARGER_DEVICE):
            engine = self.engine(part)
        with self.clock.time(DEVICE), room_for_part(part):
            return part, engine.run(layout)

    def finish(self, task: tuple[Part, Running | None]) -> tuple[Part, Embedded | None, dict[str, Any] | None]:
        """Fetch a part's vectors and write it; where some of them are to be made anew, leave it unfinished."""
        part, running = task
        if running is None:
            return part, None, self.store(part, None)
        with self.clock.time(DEVICE), room_for_part(part):
            embedded = self.engine(part).finish(running)
        self.clock.residues += int(embedded.used[~embedded.skipped].sum())
        self.clock.operations += embedded.operations
        if self.settings.dtype != "float32" and (embedded.state == NON_FINITE).any():
            return part, embedded, None
        return part, None, self.store(part, Written(embedded, []))

    def recompute(self, part: Part, embedded: Embedded) -> Written:
        """Embed in float32 what came out not finite in a narrower type."""
        broken = np.flatnonzero(embedded.state == NON_FINITE)
        log.warning("%d vectors are not finite in %s and are made in float32", len(broken), self.settings.dtype)
        with room_for("the model in float32, beside the one that is there,", LARGER_DEVICE):
            engine = self.engine(part, replace(self.settings, dtype="float32"))
        chosen = [part.records[index] for index in broken]
        with self.clock.time(DEVICE), room_for_part(part):
            mended = engine.embed(Sequences.join([record.sequence for record in chosen]))
        for name, vectors in embedded.vectors.items():
            vectors[broken] = mended.vectors[name]
        embedded.state[broken], embedded.skipped[broken] = mended.state, mended.skipped
        for position, index in enumerate(broken if embedded.residues is not None else []):
            embedded.residues[index] = mended.residues[position]
        return Written(embedded, [record.id for record, lost in zip(chosen, mended.skipped, strict=True) if not lost])

    def store(self, part: Part, result: Written | None) -> dict[str, Any]:
        """Write a part, if it is not there, and give its line in the manifest."""
        with self.clock.time(WRITING):
            if result:
                write(part, result)
            return part_entry(part)

    def engine(self, part: Part, settings: Settings | None = None) -> Engine:
        """The engine, which is loaded where it is needed for the first time."""
        identity = json_sha256(part.provenance["model"])
        return load_engine(self.model, identity, settings or self.settings, self.machine)


def room_for_part(part: Part) -> AbstractContextManager[None]:
    """Where memory runs out for a part, say so."""
    return room_for(f"{part.path.name} with its {len(part.records):,} sequences", SMALLER_PARTS)


@dataclass(frozen=True, slots=True)
class OnePart:
    """`Work` on one part in a process of its own."""

    model: str
    settings: Settings
    machine: Machine

    def __call__(self, part: Part) -> dict[str, Any]:
        """Embed and write a part; give its line in the manifest."""
        work = Work(self.model, self.settings, self.machine, Clock())
        part, unfinished, entry = work.finish(work.run_part(*work.lay_out(part)))
        return entry or work.store(part, work.recompute(part, unfinished))


@cache
def described(model: str, identity: str, features: str) -> Model:
    """What sequences are laid out by, which needs no weights: the model's vocabulary and positions."""
    return empty_model(model, features)


@cache
def load_engine(model: str, identity: str, settings: Settings, machine: Machine) -> Engine:
    """Load the model once per process, and again where the directory's `identity` has changed.

    The garbage collector then leaves alone what is loaded: each part's records would have it look through all of that
    for cycles several times over, for a sixth of the time beside the model.
    """
    engine = engine_of(model, settings, machine)
    gc.freeze()
    return engine


def engine_of(model: str, settings: Settings, machine: Machine) -> Engine:
    """An engine with the settings."""
    return Engine(
        load_model(model, settings.features),
        device=machine.device,
        dtype=settings.dtype,
        policy=settings.policy,
        layer=settings.layer,
        poolings=settings.pooling,
        per_residue=settings.per_residue,
        attempt=machine.attempt,
    )
