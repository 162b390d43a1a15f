"""Chunks of FASTA or UniRef XML as a sorted table: the filter's work on many records at once."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.criteria import Criteria
from embedome.catalog.reading import Nucleic
from embedome.catalog.structure_states import find_places, states_of_kept
from embedome.catalog.table import CATALOG_WITH_STRUCTURE
from embedome.common.errors import UserError
from embedome.parquet.external_sort import RunIndex, in_order, sort_order, write_run
from embedome.sequences.chunk_spool import Spool, Spooled
from embedome.sequences.digests import DIGEST_CHARACTERS, REFGET_PREFIX, STRUCTURE_PREFIX, digest_texts, refget_digests
from embedome.sequences.fasta import Chunk
from embedome.sequences.header_ids import HeaderIds
from embedome.sequences.headers import parse_descriptions
from embedome.sequences.record_columns import Records, check_chunk, read_bytes, read_offsets
from embedome.sequences.records import Record
from embedome.sequences.structures import UNKNOWN, Structures
from embedome.sequences.uniref_entries import check_clusters
from embedome.sequences.uniref_members import MEMBER_RUN
from embedome.sequences.uniref_xml import XmlChunk

RUN_SCHEMA = pa.schema(
    [
        *(field.with_nullable(True) for field in CATALOG_WITH_STRUCTURE if field.name != "duplicate_of"),
        pa.field("digest_prefix", pa.uint64()),
        pa.field("file", pa.int32()),
        pa.field("number", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class RunTask:
    """Chunks of one file that become a run.

    Parameters
    ----------
    path : path
        The chunks' file.
    file : int
        Number of it.
    before : int
        Records of the files before it.
    chunks : sequence of Chunk or XmlChunk
    limits : Criteria
    folder : Path
        Where runs go.
    header_ids : HeaderIds, optional
        As of `record_columns.check_chunk`.
    spooled : sequence of Spooled
        Chunks that lie in a file.
    structures : Structures, optional
        Structure states by id.
    """

    path: str | os.PathLike
    file: int
    before: int
    chunks: Sequence[Chunk | XmlChunk]
    limits: Criteria
    folder: Path
    header_ids: HeaderIds | None = None
    spooled: Sequence[Spooled] = ()
    structures: Structures | None = None

    def through(self, spool: Spool) -> "RunTask":
        """Return the task for another process, its chunks in a file."""
        return replace(self, chunks=(), spooled=spool.put(self.chunks))

    def all_chunks(self) -> Iterator[Chunk | XmlChunk]:
        """Yield the chunks, those in a file one by one."""
        yield from self.chunks
        yield from (each.fetch() for each in self.spooled)


@dataclass(frozen=True, slots=True)
class SortedRun:
    """What has been made of a task."""

    records: RunIndex
    members: RunIndex | None
    """Of UniRef XML."""
    n_members: int
    file: int
    nucleic: Nucleic
    nameless: int
    """Records without an id."""
    with_states: np.ndarray
    """Where its ids are in the index of structures, int64."""


def make_run(task: RunTask) -> tuple[SortedRun, np.ndarray]:
    """Check chunks' records, and write them as a run, and members where there are any as another.

    Returns their places, and the digest prefixes of the records that are kept.

    Raises
    ------
    UserError
        As `fasta.split_entry`, `uniref_entries.check_clusters` and `Structures.fit`.
    """
    found = [check_records(task, chunk) for chunk in task.all_chunks()]
    table = pa.concat_tables(rows for rows, *_ in found).combine_chunks()
    order = sort_order(table)
    is_row = np.concatenate([mine for _, mine, _, _ in found])
    table = table.take(pa.array(order[is_row[order]]))
    records = write_run(task.folder, table)
    tables = [members for _, _, members, _ in found if members is not None]
    members = number_entries(pa.concat_tables(tables), task) if tables else MEMBER_RUN.empty_table()
    index = write_run(task.folder, in_order(members)) if len(members) else None
    nameless = pc.sum(pc.equal(table["reason"], "no-id")).as_py() or 0
    nucleic = Nucleic.of_all(each for *_, each in found)
    places = find_places(task.structures, table["id"].combine_chunks())
    run = SortedRun(records, index, len(members), task.file, nucleic, nameless, places)
    return run, table["digest_prefix"].drop_null().to_numpy()


def check_records(task: RunTask, chunk: Chunk | XmlChunk) -> tuple[pa.Table, np.ndarray, pa.Table | None, Nucleic]:
    """Return rows of the schema `RUN_SCHEMA`, which of them count [n], members, of UniRef XML, and what looks like DNA.

    A rejected record also keeps its original row, flagged to be ignored; this avoids copying the other rows.
    """
    if isinstance(chunk, XmlChunk):
        if task.header_ids:
            raise UserError(f"{task.path}: UniRef XML, which has no headers; expected FASTA, as source.id is given")
        records, faults, members = check_clusters(task.path, chunk)
    else:
        records, faults, members = check_chunk(task.path, chunk, task.header_ids), {}, None
    # Of XML too: the embed stage has nothing but the description, and must find the same in it.
    fields = parse_descriptions(records.descriptions)
    fields = fields.append_column("description", records.descriptions)
    faults = task.limits.faults(records.sequences, fields) | faults
    keep = np.ones(len(records.ids), bool)
    keep[list(faults)] = False
    dropped = dropped_rows(records, faults, task)
    rows = pa.concat_tables([sound_rows(records, fields, keep, task), dropped])
    nucleic = Nucleic.among(records.number, records.sequences)
    return rows, np.concatenate([keep, np.ones(len(dropped), bool)]), members, nucleic


def sound_rows(records: Records, fields: pa.Table, keep: np.ndarray, task: RunTask) -> pa.Table:
    """Return rows of the schema `RUN_SCHEMA` of sound records; only those that are kept have their digests."""
    sequences = task.limits.mask(records.sequences)
    text, offsets = read_bytes(sequences).tobytes(), read_offsets(sequences)
    bounds = zip(offsets[:-1][keep].tolist(), offsets[1:][keep].tolist(), strict=True)
    contents: Iterable[bytes] = (text[start:end] for start, end in bounds)
    states = None
    if task.structures is not None:
        states = states_of_kept(task.structures, records, keep, str(task.path))
        contents = (sequence + state.lower() for sequence, state in zip(contents, compress(states, keep), strict=True))
    digests = np.zeros((len(keep), 32), np.uint8)
    digests[keep] = np.frombuffer(digest_texts(contents), np.uint8).reshape(-1, 32)
    columns = {
        "id": records.ids,
        "digest": digest_array(digests, REFGET_PREFIX if states is None else STRUCTURE_PREFIX),
        "length": np.diff(offsets),
        **dict(zip(fields.column_names, fields.columns, strict=True)),
        "record": records.number + task.before - 1,
        "sequence": sequences.cast(pa.large_string()),
        "structure": None if states is None else pa.array(states, pa.large_binary()).cast(pa.large_string()),
        # 8 of the digest's characters hold 48 of its bits: enough to find candidates, which are then compared whole.
        "digest_prefix": np.ascontiguousarray(digests[:, :8]).view("<u8").ravel(),
        "file": np.full(len(sequences), task.file, np.int32),
        "number": records.number,
    }
    return as_run(columns, len(sequences))


def dropped_rows(records: Records, faults: Mapping[int, tuple[str, str]], task: RunTask) -> pa.Table:
    """Return rows of the schema `RUN_SCHEMA` of the records that are dropped, without their sequences."""
    dropped = dict(records.faulty)
    for row, fault in faults.items():
        name, description, sequence = (
            column[row].as_py() for column in (records.ids, records.descriptions, records.sequences)
        )
        dropped[int(records.number[row])] = Record(name, description, sequence.encode(), *fault)
    rows = dropped.values()
    number = np.array(list(dropped), np.int64)
    columns = {
        "id": [row.id for row in rows],
        # Of what would have been kept, so that a record is the same whatever it is dropped for.
        "digest": dropped_digests(task, list(rows)),
        "length": [len(row.sequence) for row in rows],
        "description": [row.description for row in rows],
        "record": number + task.before - 1,
        "file": np.full(len(dropped), task.file, np.int32),
        "number": number,
        "reason": [row.reason for row in rows],
        "detail": [row.detail for row in rows],
    }
    return as_run(columns, len(dropped))


def dropped_digests(task: RunTask, rows: Sequence[Record]) -> list[str]:
    """Return the digests that records would have had if they were kept."""
    texts = [task.limits.mask_text(row.sequence) for row in rows]
    if task.structures is None:
        return refget_digests(texts)
    found = task.structures.of_ids(pa.array([row.id for row in rows], pa.string()))
    states = (each or UNKNOWN * len(text) for each, text in zip(found, texts, strict=True))
    return refget_digests([text + each.lower() for text, each in zip(texts, states, strict=True)], STRUCTURE_PREFIX)


def number_entries(members: pa.Table, task: RunTask) -> pa.Table:
    """Return members with the record of their cluster, as the catalog has it, for the number of its entry."""
    records = pc.add(members["entry"], task.before - 1)
    return members.set_column(members.schema.get_field_index("entry"), MEMBER_RUN.field("entry"), records)


def as_run(columns: Mapping[str, object], count: int) -> pa.Table:
    """Return a table of the schema `RUN_SCHEMA`; columns that are not given are null."""
    arrays = []
    for field in RUN_SCHEMA:
        values = columns.get(field.name)
        if values is None:
            values = pa.nulls(count, field.type)
        arrays.append(values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=RUN_SCHEMA)


def digest_array(digests: np.ndarray, prefix: str) -> pa.StringArray:
    """Return digests from what stands before them and their 32 characters, uint8 [n, 32]."""
    whole = np.empty((len(digests), DIGEST_CHARACTERS), np.uint8)
    whole[:, :3] = list(prefix.encode())
    whole[:, 3:] = digests
    offsets = np.arange(0, whole.size + 1, DIGEST_CHARACTERS, dtype=np.int32)
    return pa.StringArray.from_buffers(len(whole), pa.py_buffer(offsets), pa.py_buffer(whole))
