"""Embed stage: one shard, part by part, on one device.

A run that finds a part with the fingerprint it would write leaves it alone, so a killed run loses the parts under way
and nothing else: the one on the device and those being written, or with several processes one each.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from embedome import __version__
from embedome.common.counts import add_counts
from embedome.common.errors import UserError
from embedome.common.json_files import json_sha256, read_json, write_json
from embedome.common.log import Progress
from embedome.common.terms import STRUCTURE
from embedome.common.work_count import begin_count
from embedome.dataset.part_file import part_info
from embedome.dataset.provenance import DEVIATION, check_same_vectors, worst_deviation
from embedome.embedding.deviation import compare_vectors, sample_sequences
from embedome.embedding.metrics import DEVICE, Clock, write_metrics
from embedome.embedding.part_pipeline import EmbedJob, Machine, build_engine, embed_parts, load_empty_model, load_engine
from embedome.embedding.parts import Part, cut_parts, fingerprint, most_residues, remove_other_parts
from embedome.embedding.settings import EmbedSettings, PartLimits
from embedome.engine.encoder_pass import number_layers
from embedome.engine.engine import INT8
from embedome.models.directory import model_dimension, model_identity, read_tokenizer
from embedome.models.structure_tokenizer import StructureTokenizer, read_structure
from embedome.parquet.file_format import FILE_FORMAT
from embedome.sequences.compressed import BLOCK_BYTES, read_blocks
from embedome.sequences.fasta import read_chunks
from embedome.sequences.record_columns import check_chunk
from embedome.sequences.records import Record

log = logging.getLogger(__name__)


# Raised when the engine's numbers change, so that parts written before are not used again.
NUMERICS_VERSION = 5


def embed_shard(
    fasta: str | os.PathLike,
    model: str | os.PathLike,
    manifest: str | os.PathLike,
    *,
    settings: EmbedSettings,
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
    settings : EmbedSettings
    limits : PartLimits
    source : mapping
        Where the sequences come from, for the provenance: plain JSON, free of local paths and times. Where it names
        structure states, the model reads them.
    machine : Machine
    shards : path, optional
        The shard stage's summary, which says how much work there is.
    metrics : path, optional
        JSON Lines file for what the shard cost, see docs/performance.md.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    UserError
        Where the shard is not one, or not the one that the shard stage wrote, the model directory is not whole, or the
        device is missing.
    """
    manifest = Path(manifest)
    settings = reading_structure(settings, source)
    clock = Clock()
    total = shard_total(shards, manifest) if shards else None
    if settings.per_residue and total:
        announce_size(total["residues"], model_dimension(model))
    result = embed_records(
        shard_records(fasta, structure=settings.structure),
        model,
        manifest,
        settings=settings,
        limits=limits,
        source=source,
        machine=machine,
        total=total["residues"] if total else None,
        earlier=read_json(shards)["earlier"] if shards else None,
        clock=clock,
    )
    if total and result["content_sha256"] != total["content_sha256"]:
        raise UserError(f"{fasta}: not the sequences that {shards} lists, or changed since; rerun the shard stage")
    if metrics:
        used = (str(model), json_sha256(result["provenance"]["model"]), settings, machine)
        write_metrics(metrics, result, clock, load_engine(*used) if clock.seconds[DEVICE] else None)
    write_json(manifest, result)
    log.info("%s sequences: %s", f"{result['sequences']:,}", result["states"] | result["skipped"])
    return result


def shard_total(shards: str | os.PathLike, manifest: Path) -> dict[str, Any]:
    """Return what the shard stage says of a shard: sequences, residues and digest."""
    listed = read_json(shards)["splits"][manifest.parent.name]
    return next(shard for shard in listed if shard["shard"] == manifest.stem)


def announce_size(residues: int, dimension: int) -> None:
    """Log how large the vectors of `residues` residues are, before they are computed."""
    log.info("vectors of %s residues will take up to %.1f GB", f"{residues:,}", 2e-9 * dimension * residues)


def reading_structure(settings: EmbedSettings, source: Mapping[str, Any]) -> EmbedSettings:
    """Return settings by which structure states are read where the sequences have some."""
    return replace(settings, structure=STRUCTURE in source)


def shard_records(fasta: str | os.PathLike, *, structure: bool = False) -> Iterator[Record]:
    """Read a shard file; none of its records may be faulty. With `structure` states follow the residues.

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
        yield from map(part_structure, records.sound()) if structure else records.sound()


def part_structure(record: Record) -> Record:
    """Return a shard's record with its lines parted: residues, and as many structure states."""
    half = len(record.sequence) // 2
    return record._replace(sequence=record.sequence[:half], structure=record.sequence[half:])


def is_empty_shard(fasta: str | os.PathLike) -> bool:
    """Return whether a shard got no sequence, as there were fewer than shards."""
    return next(read_blocks(fasta), None) is None


def embed_records(
    records: Iterable[Record],
    model: str | os.PathLike,
    manifest: Path,
    *,
    settings: EmbedSettings,
    limits: PartLimits,
    source: Mapping[str, Any],
    machine: Machine = Machine(),
    total: int | None = None,
    earlier: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
) -> dict:
    """Embed records that come in id order into parts beside `manifest`; return the manifest.

    As `embed_shard`; `total` is the number of residues, where known, and `earlier` the data set that others are
    taken from: it must have been embedded in the same way.
    """
    settings = reading_structure(settings, source)
    provenance = make_provenance(model, settings, source)
    if settings.structure:
        records = check_states(records, read_structure(read_tokenizer(model), model), model)
    if earlier:
        check_same_vectors(earlier["provenance"], provenance)
    if provenance["model"]["trained"] is False:
        log.warning("%s is an untrained model: its vectors have no biological meaning", provenance["model"]["name"])
    if machine.device == "cuda" and settings.dtype == "float32":
        log.warning("float32 on a GPU is several times slower than bfloat16; see docs/performance.md")
    content = hashlib.sha256()
    entries: list[dict[str, Any]] = []

    def parts() -> Iterator[Part]:
        most = most_residues(provenance, model_dimension(model))
        for index, rows in enumerate(cut_parts(records, limits, most)):
            content.update(b"".join([b"%s\n%s\n" % (record.id.encode(), record.content) for record in rows]))
            path = manifest.with_name(f"{manifest.stem}-{index:05d}.parquet")
            yield Part(path, rows, provenance, fingerprint(provenance, rows))

    job = EmbedJob(str(model), settings, machine, clock or Clock())
    count = begin_count()
    with Progress(f"embed {manifest.stem}", "residues", total) as progress, progress.follow(lambda: count.value):
        entries.extend(embed_parts(parts(), job))
    files = [entry["file"] for entry in entries]
    files += [entry["per_residue"]["file"] for entry in entries if entry["per_residue"]]
    remove_other_parts(manifest, set(files))
    if DEVIATION in provenance:
        # Parts written by an earlier run may have been embedded on another machine.
        infos = [part_info(manifest.with_name(entry["file"])) for entry in entries]
        provenance |= worst_deviation([provenance, *(info.provenance for info in infos)])
    return {
        "format": FILE_FORMAT,
        "shard": manifest.stem,
        "provenance": provenance,
        "sequences": sum(entry["sequences"] for entry in entries),
        "residues": sum(entry["residues"] for entry in entries),
        "content_sha256": content.hexdigest(),
        "states": add_counts(entry["states"] for entry in entries),
        "skipped": add_counts(entry["skipped"] for entry in entries),
        "parts": entries,
    }


def check_states(
    records: Iterable[Record], tokenizer: StructureTokenizer, model: str | os.PathLike
) -> Iterator[Record]:
    """Yield records, as long as the model has tokens for their structure states; fails as `check_states`."""
    for record in records:
        tokenizer.check_states(record.id, record.structure or b"", model)
        yield record


def make_provenance(model: str | os.PathLike, settings: EmbedSettings, source: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the vectors come from: part of every file, equal on all machines but for `provenance.MEASURED`."""
    identity = model_identity(model, structure=settings.structure)
    chosen = asdict(settings)
    if not settings.structure:
        # Of vectors of residues alone nothing is said of it.
        del chosen[STRUCTURE]
    return {
        "embedome": __version__,
        "numerics": NUMERICS_VERSION,
        "model": identity,
        **chosen,
        "layer": resolve_layer(model, settings, identity),
        "pooling": list(settings.pooling),
        **({DEVIATION: int8_deviation(str(model), json_sha256(identity), settings)} if settings.dtype == INT8 else {}),
        "source": dict(source),
    }


def resolve_layer(model: str | os.PathLike, settings: EmbedSettings, identity: Mapping[str, Any]) -> int | list[int]:
    """Return the layer as it is named; of several their numbers, by which their columns are named.

    Raises
    ------
    UserError
        Where the model has no such layer, one is named twice, or per-residue embeddings are asked for of several.
    """
    if len(settings.layers) == 1:
        return settings.layers[0]
    if settings.per_residue:
        raise UserError(
            "embed.layer names several layers; per-residue embeddings are of one: name one, or set "
            "embed.per_residue to false"
        )
    encoder = load_empty_model(str(model), json_sha256(identity), settings).encoder
    return list(number_layers(encoder.n_layers, settings.layers))


def int8_deviation(model: str, identity: str, settings: EmbedSettings) -> dict[str, float]:
    """Measure how far vectors in int8 are from those in float32, on some random sequences: the worst of all."""
    pooled = replace(settings, per_residue=False)
    reference = build_engine(model, replace(pooled, dtype="float32"), Machine())
    sequences = sample_sequences(reference.max_residues, structure=settings.structure)
    exact = reference.embed(sequences).vectors
    # This one is kept: where per-residue embeddings are not asked for, it is the one that goes on to embed.
    found = load_engine(model, identity, pooled, Machine()).embed(sequences).vectors
    cosine, difference = compare_vectors(exact, found)
    return {"min_cosine": round(cosine, 5), "max_abs": round(difference, 4)}
