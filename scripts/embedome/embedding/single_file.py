"""One FASTA file to one embedding file: the stages of the workflow, without splits and shards."""

import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records, source_identity
from embedome.catalog.reading import ReadSettings
from embedome.catalog.table import has_structure, read_catalog
from embedome.common.atomic_files import atomic_path, temporaries_beside, temporary_beside
from embedome.common.counts import check_equal
from embedome.common.disk_space import check_room
from embedome.common.errors import UserError
from embedome.common.locks import try_lock
from embedome.common.outputs import check_own_folder, others_in
from embedome.common.terms import STRUCTURE
from embedome.dataset.duplicates import CATALOG_COLUMNS, duplicate_rows, skipped_duplicates
from embedome.dataset.format import SKIPPED, embedding_metadata, residue_schema
from embedome.dataset.part_file import embedding_sink, is_own_file, part_info, read_rows, residue_sink, residues_path
from embedome.dataset.provenance import lasting
from embedome.embedding.cost import PICOSECONDS, SUSTAINED_FLOPS, CostModel, estimate_cost, longest_costed
from embedome.embedding.embed import announce_size, embed_records, make_provenance
from embedome.embedding.forecast import HALF, ROW_BYTES
from embedome.embedding.part_pipeline import Machine
from embedome.embedding.request import check_request
from embedome.embedding.settings import EmbedSettings, PartLimits
from embedome.models.directory import empty_model
from embedome.parquet.reader import ParquetFile, RowReader
from embedome.sequences.dropped_records import write_dropped
from embedome.sequences.input_files import STREAM_NAME, keep_streams, list_files
from embedome.sequences.records import Record

log = logging.getLogger(__name__)

PART_SEQUENCES = 100_000
# Predicted seconds of a part: on a CPU the time of all in this many parts, so that cores end at nearly one time, within
# these limits. The least is about a full batch of ESM-1nv.
PARTS = 32
PART_SECONDS = {"cpu": (6.0, 60.0), "cuda": (60.0, 60.0)}
# In the folder of work under way, held by the process that writes there; it says that the folder is embedome's.
LOCK, MARK = "lock", b"embedome: work under way\n"
WORK_FILES = re.compile(
    rf"lock|{STREAM_NAME}|filter\.json|rejects\.parquet|catalog/(part-\d+\.parquet)?|all-\d+(\.residues)?\.parquet|"
    r"\.[^/]+\.[0-9a-f]{12}\.tmp(/.*)?"
)
# Of the vectors' bytes, what compression leaves at the least: 0.92 of random numbers, whatever they have in common.
COMPRESSED = 0.9


def embed_fasta(
    fasta: Sequence[str | os.PathLike],
    model: str | os.PathLike,
    out: str | os.PathLike,
    *,
    settings: EmbedSettings,
    machine: Machine,
    reading: ReadSettings | None = None,
) -> dict[str, Any]:
    """Embed FASTA files into one Parquet file, sorted by id, in the format of the workflow's data sets.

    Work under way lies in ``<out>.work`` beside the file; a run that was killed is resumed from there. Records that
    got no row are listed in ``<out>.dropped.tsv``, with the reason. Per-residue embeddings, where asked for, are in
    ``<out stem>.residues.parquet``.

    Parameters
    ----------
    fasta : sequence of paths
        Of a folder all sequence files in it; ``-`` is standard input, which is copied, as pipes are.
    model : path
        Model directory.
    out : path
        The Parquet file.
    settings : EmbedSettings
    machine : Machine
    reading : ReadSettings, optional

    Returns
    -------
    dict
        The account: records read, and what became of them.

    Raises
    ------
    UserError
        As the filter and embed stages; where another process is writing the file, the disk has too little room, or a
        file or folder is in the way that embedome did not make.
    """
    out = Path(out)
    fasta = list_files(fasta)
    check_request(fasta, model, out, per_residue=settings.per_residue, reading=reading)
    described = empty_model(model, settings.features, structure=bool(reading and reading.structure))
    longest = longest_costed(settings.policy, described.max_residues)
    cost = estimate_cost(described.encoder, longest, SUSTAINED_FLOPS[machine.device])
    dimension = described.encoder.dimension
    with work_folder(out) as work:
        with keep_streams(fasta, work) as kept:
            account = filter_records(
                kept,
                Criteria(),
                catalog=work / "catalog",
                rejects=work / "rejects.parquet",
                summary=work / "filter.json",
                listed=out,
                reading=reading,
            )
        source = source_identity(work / "filter.json")
        warn_of_replaced(out, lambda: make_provenance(model, settings, source))
        if settings.per_residue:
            announce_size(account["residues"], dimension)
        written = sum(path.stat().st_size for path in work.glob("all-*.parquet"))
        check_room(out, max(0, bytes_needed(work / "catalog", settings, cost.longest, dimension) - written))
        manifest = embed_records(
            canonical_records(work / "catalog"),
            model,
            work / "all.json",
            settings=settings,
            limits=PartLimits(PART_SEQUENCES, part_seconds(work / "catalog", cost, machine.device), cost),
            source=source,
            machine=machine,
            total=sum(int(lengths.sum()) for lengths in distinct_lengths(work / "catalog")),
        )
        parts = [work / part["file"] for part in manifest["parts"]]
        states, skipped = join_parts(parts, work / "catalog", out, manifest["provenance"])
        check_equal("kept", account["kept"], "rows and skipped", sum(states.values()) + len(skipped))
        if settings.per_residue:
            join_residues(parts, out, manifest["provenance"], dimension)
        else:
            remove_residues(out)
        write_dropped(out, dropped_rows(work / "rejects.parquet", skipped))
    return {"read": account["read"], **states, "skipped": len(skipped), "rejected": account["rejected"]}


def warn_of_replaced(out: Path, make: Callable[[], Mapping[str, Any]]) -> None:
    """Say in which words of their provenance the vectors that will be replaced differ from those to be made."""
    if not is_own_file(out):
        return
    found, new = lasting(part_info(out).provenance), lasting(make())
    differing = [key for key in {**found, **new} if found.get(key) != new.get(key)]
    if differing:
        log.warning("%s: holds vectors of another %s; they are replaced in the end", out, ", ".join(differing))


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """Yield the folder for work under way, held against other processes; it is gone when the block has ended well.

    One without any part yet is gone in any case. What embedome did not make stays.

    Raises
    ------
    UserError
        Where another process holds it, and where there is a folder of its name that embedome did not make.
    """
    work = out.with_name(out.name + ".work")
    check_own_folder(work, WORK_FILES, is_work, "move it, or name another output")
    try:
        with try_lock(work / LOCK) as is_held:
            if not is_held:
                raise UserError(f"{out}: another process is writing it; wait for it, then run again")
            if (work / LOCK).read_bytes() != MARK:
                (work / LOCK).write_bytes(MARK)
            done = False
            try:
                yield work
                done = True
            finally:
                if done or not any(name.startswith("all-") for name in os.listdir(work)):
                    clear(work)
    finally:
        for stale in temporaries_beside(work):
            shutil.rmtree(stale, ignore_errors=True)


def is_work(folder: Path) -> bool:
    """Return whether a folder is one of work under way, or will be at once."""
    try:
        return (folder / LOCK).read_bytes() == MARK or os.listdir(folder) == [LOCK]
    except FileNotFoundError:
        # Unless its process has just moved it away.
        return not folder.exists()


def clear(work: Path) -> None:
    """Remove a folder of work, held by this process; if it holds anything else, remove all but that."""
    if (other := next(others_in(work, WORK_FILES), None)) is None:
        # Moved away first: whoever comes next makes a new one, and none is removed under way.
        os.replace(work, temporary_beside(work))
        return
    log.warning("%s: holds %r, which embedome did not make; it stays", work, other)
    for path in sorted(work.rglob("*"), reverse=True):
        if path.is_dir():
            with suppress(OSError):
                path.rmdir()
        elif WORK_FILES.fullmatch(path.relative_to(work).as_posix()):
            path.unlink()


def bytes_needed(catalog: Path, settings: EmbedSettings, longest: int | None, dimension: int) -> int:
    """Estimate the bytes of the parts and of the files they are joined to, as both exist at the end; not too few.

    `longest` is that of the cost.
    """
    vector = COMPRESSED * HALF * dimension
    row, needed = ROW_BYTES + vector * len(settings.pooling) * len(settings.layers), 0.0
    for table in read_catalog(catalog, ["length", "duplicate_of"]):
        if settings.long_sequences == "skip" and longest:
            table = table.filter(pc.less_equal(table["length"], longest))
        distinct = table.filter(table["duplicate_of"].is_null())["length"].to_numpy()
        # A duplicate is in no part, and has no per-residue embeddings.
        needed += row * (len(distinct) + len(table))
        if settings.per_residue:
            needed += 2 * vector * np.minimum(distinct, longest or np.inf).sum()
    return int(needed)


def part_seconds(catalog: Path, cost: CostModel, device: str) -> float:
    """Return predicted seconds of a part, by the work that there is, so that a resumed run cuts the same parts."""
    least, most = PART_SECONDS[device]
    total = sum(int(cost.picoseconds(lengths).sum()) for lengths in distinct_lengths(catalog))
    return min(most, max(least, total / PICOSECONDS / PARTS))


def distinct_lengths(catalog: Path) -> Iterator[np.ndarray]:
    """Yield the lengths of the catalog's distinct sequences, int64 [n] of each row group."""
    for table in read_catalog(catalog, ["length", "duplicate_of"]):
        yield table.filter(table["duplicate_of"].is_null())["length"].to_numpy().astype(np.int64)


def canonical_records(catalog: Path) -> Iterator[Record]:
    """Yield the catalog's distinct sequences in id order."""
    names = ["id", "description", "sequence", *([STRUCTURE] if has_structure(catalog) else [])]
    for table in read_catalog(catalog, [*names, "duplicate_of"]):
        distinct = table.filter(table["duplicate_of"].is_null())
        for name, description, *letters in zip(*(distinct[column].to_pylist() for column in names), strict=True):
            sequence, *structure = (text.encode() for text in letters)
            yield Record(name, description, sequence, structure=structure[0] if structure else None)


def join_parts(
    parts: Sequence[Path], catalog: Path, out: Path, provenance: dict[str, Any]
) -> tuple[dict[str, int], pa.Table]:
    """Write parts and duplicates as one file in id order; return rows by state, and the skipped sequences.

    Memory: a part, and a vector for every sequence that has duplicates.
    """
    infos = [part_info(path) for path in parts]
    schema = infos[0].schema
    skipped = pa.Table.from_pylist([row for info in infos for row in info.skipped], SKIPPED)
    repeated = repeated_ids(catalog)
    reader = RowReader((read_rows(path).cast(schema) for path in parts), schema)
    originals = schema.empty_table()
    states: Counter[str] = Counter()
    with atomic_path(out) as temporary, embedding_sink(temporary, schema) as sink:
        for rows in read_catalog(catalog, CATALOG_COLUMNS):
            canonical = rows.filter(rows["duplicate_of"].is_null())
            is_skipped = pc.is_in(canonical["id"], value_set=skipped["id"])
            taken = reader.take(len(canonical) - (pc.sum(is_skipped).as_py() or 0))
            originals = pa.concat_tables([originals, taken.filter(pc.is_in(taken["id"], value_set=repeated))])
            # A canonical id sorts before its duplicates, so its row has been seen.
            copies, lost = duplicate_rows(rows.filter(rows["duplicate_of"].is_valid()), originals)
            skipped = pa.concat_tables([skipped, skipped_duplicates(lost, skipped)])
            states.update(taken["state"].to_pylist() + copies["state"].to_pylist())
            sink.write(pa.concat_tables([taken, copies]).sort_by("id"))
        sink.describe(embedding_metadata(provenance, skipped))
    return dict(states), skipped


def join_residues(parts: Sequence[Path], out: Path, provenance: dict[str, Any], dimension: int) -> None:
    """Write the parts' per-residue embeddings as one file in id order; a row group in memory at a time."""
    with atomic_path(residues_path(out)) as temporary, residue_sink(temporary, dimension) as sink:
        for part in parts:
            file = ParquetFile(residues_path(part))
            for group in range(file.num_row_groups):
                sink.write(file.read_row_group(group, use_threads=False).replace_schema_metadata(None))
        sink.describe(embedding_metadata(provenance))


def remove_residues(out: Path) -> None:
    """Remove the per-residue embeddings of an earlier run; a file of their name with other content stays."""
    path = residues_path(out)
    if is_own_file(path) and ParquetFile(path).schema_arrow.names == residue_schema(1).names:
        path.unlink()


def repeated_ids(catalog: Path) -> pa.Array:
    """Return the canonical ids that have duplicates."""
    tables = read_catalog(catalog, ["duplicate_of"])
    found = [pa.array([], pa.string()), *(table["duplicate_of"].drop_null().combine_chunks() for table in tables)]
    return pa.concat_arrays(found).unique()


def dropped_rows(rejects: Path, skipped: pa.Table) -> list[tuple]:
    """Return the records that got no row, as `write_dropped` takes them."""
    rejected = read_rows(rejects, ["id", "reason", "detail", "length"]).to_pylist()
    rows = [("rejected", row["id"], row["reason"], row["detail"], row["length"]) for row in rejected]
    return rows + [("skipped", row["id"], row["reason"], "", row["length"]) for row in skipped.to_pylist()]
