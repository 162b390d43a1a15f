"""Making a reference set: the rows of a data set that a table of labels names, their vectors, and an index of these."""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.annotation.label_tables import LabelSource
from embedome.annotation.labels import LabelTable, read_labels
from embedome.annotation.matching import Matches, imply, match_labels
from embedome.annotation.ontology import ImpliedLabels, imply_labels, read_ontology
from embedome.annotation.reference_set import (
    ANNOTATION_FORMAT,
    HELD_OUT,
    INDEX,
    INDEX_METRICS,
    LOOKUP,
    NAMES,
    ROWS,
    VECTORS,
    AnnotateSettings,
    ReferenceSet,
    check_catalog,
    dataset_identity,
    ranges,
)
from embedome.annotation.search_recall import measure_recall
from embedome.annotation.sequence_source import SequenceSource, read_source
from embedome.common.atomic_files import atomic_directory
from embedome.common.errors import UserError
from embedome.common.json_files import write_json
from embedome.common.log import Progress
from embedome.common.outputs import check_own_folder
from embedome.dataset.dataset import Dataset
from embedome.dataset.open import open_dataset
from embedome.dataset.to_faiss import build_index, load_faiss
from embedome.parquet.reader import ParquetFile
from embedome.parquet.vectors import vector_matrix
from embedome.parquet.writer import ParquetSink
from embedome.sequences.accessions import find_accessions

log = logging.getLogger(__name__)


GROUP_ROWS = 1 << 14
BLOCK_ROWS = 1 << 14
SEED = 0
LOOKUP_NAMES = re.compile("|".join(map(re.escape, (LOOKUP, ROWS, NAMES, HELD_OUT, VECTORS, INDEX))))

NAMES_SCHEMA = pa.schema(
    [
        pa.field("label", pa.string(), nullable=False),
        pa.field("n_lookup", pa.int64(), nullable=False),
        pa.field("namespace", pa.string()),
        pa.field("is_root", pa.bool_(), nullable=False),
    ]
)
LABELS = pa.field("labels", pa.list_(pa.field("element", pa.int32(), nullable=False)), nullable=False)
HELD_OUT_SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), LABELS])
ROWS_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        LABELS,
        pa.field("sequence", pa.large_string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The labels: sorted names, what an ontology says of each, as columns of `NAMES_SCHEMA`."""

    names: pa.StringArray
    namespaces: pa.Array
    is_root: pa.Array

    @classmethod
    def of(cls, implied: ImpliedLabels | None, names: pa.StringArray) -> "Vocabulary":
        """Take them from an ontology; without one from the table's names."""
        if implied:
            return cls(implied.names, implied.namespaces, pa.array(implied.is_root))
        return cls(names, pa.nulls(len(names), pa.string()), pa.array(np.zeros(len(names), bool)))


def build_reference(
    dataset: str | os.PathLike,
    labels: LabelSource,
    folder: str | os.PathLike,
    settings: AnnotateSettings,
    *,
    catalog: SequenceSource | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Gather the annotated proteins of a data set and index their vectors.

    Parameters
    ----------
    dataset : path
    labels : LabelSource
    folder : path
        Put in place whole: the rows, their vectors and index, names of labels, held-out labels, and ``lookup.json``.
    settings : AnnotateSettings
    catalog : path or FastaSequences, optional
        results/catalog, or the FASTA files that were embedded, for the sequences; needed with `settings.max_identity`.
    threads : int

    Returns
    -------
    dict
        ``lookup.json``: counts, settings, where data came from.

    Raises
    ------
    UserError
        Where the data set has no such vectors, the table is faulty, no id of it is in the data set, all are held out,
        or sequences cannot be had.

    Notes
    -----
    Memory: the table, and what the index takes, which are the vectors of the annotated proteins in float32, or in
    float16 beyond `settings.exact_up_to`.
    """
    data, table = open_dataset(dataset), read_labels(labels)
    column = data.column(settings.pooling)
    check_catalog(settings, catalog)
    for split in settings.hold_out:
        data.files(split)
    found = match_labels(data, table, settings.hold_out)
    implied = imply_labels(read_ontology(labels.ontology), table.names) if labels.ontology else None
    matches = imply(found, implied) if implied else found
    vocabulary = Vocabulary.of(implied, table.names)
    is_held_out = matches.rows["held_out"].to_numpy()
    account = count_ids(data, table, matches, int(is_held_out.sum()), labels)
    account["without_current_term"] = len(found.rows) - len(matches.rows)
    with atomic_directory(folder, check_own_lookup) as temporary:
        reference = matches.rows["id"].filter(pa.array(~is_held_out)).combine_chunks()
        sequences = catalog if settings.max_identity is not None else None
        write_rows(temporary, vocabulary, matches, is_held_out, sequences)
        gather_vectors(data, column, reference, temporary / VECTORS)
        index = index_vectors(temporary, settings, threads)
        about: dict[str, Any] = {
            "format": ANNOTATION_FORMAT,
            "dataset": dataset_identity(dataset, data),
            "labels": {"sha256": table.sha256, **labels.columns()},
            "ontology": implied.about if implied else None,
            "settings": settings.as_json(),
            "counts": account | {"labels": len(vocabulary.names)},
            "index": index,
        }
        write_json(temporary / LOOKUP, about)
        about["index"]["recall"] = measure_recall(data, ReferenceSet(temporary), threads)
        write_json(temporary / LOOKUP, about)
    log.info("%s: %s annotated proteins, %s held out", folder, f"{len(reference):,}", f"{is_held_out.sum():,}")
    return about


def check_own_lookup(folder: str | os.PathLike) -> None:
    """Refuse a folder that is no reference set, or holds something else too, before it is replaced."""
    check_own_folder(folder, LOOKUP_NAMES, lambda folder: (folder / LOOKUP).is_file())


def count_ids(data: Dataset, table: LabelTable, matches: Matches, held_out: int, source: LabelSource) -> dict[str, Any]:
    """Draw up the account of the table's ids; warn of those that the data set lacks.

    Raises
    ------
    UserError
        Where none is left to carry labels over from.
    """
    skipped, reference = count_skipped(data, matches.lost), len(matches.rows) - held_out
    account = {
        "table_rows": table.rows,
        "table_rows_without_label": table.empty,
        "table_rows_left_out": table.left_out,
        "ids": len(table.ids),
        "lookup": reference,
        "held_out": held_out,
        "same_protein": matches.same_protein,
        "ambiguous": matches.ambiguous,
        "skipped": skipped,
        "not_in_data_set": len(matches.lost) - skipped,
        "found_by_accession": matches.by_accession,
    }
    if not len(matches.rows):
        raise UserError(
            f"{source.path}: none of its {len(table.ids):,} ids ({table.ids[0].as_py()!r}, …) is in {data.name}; "
            f"expected ids as in the FASTA headers, or their accessions, in column {source.id_column!r}"
        )
    if not reference:
        raise UserError(f"{source.path}: all {held_out:,} ids of the data set are held out; hold out fewer splits")
    if account["not_in_data_set"]:
        absent, all_ids = f"{account['not_in_data_set']:,}", f"{account['ids']:,}"
        log.warning("%s: %s of %s ids are not in the data set", source.path, absent, all_ids)
    return account


def count_skipped(data: Dataset, names: pa.Array) -> int:
    """Count the names that are ids of skipped sequences, or accessions in such ids."""
    if data.skipped is None:
        return 0
    ids = data.skipped["id"].combine_chunks()
    known = pa.concat_arrays([ids.cast(names.type), find_accessions(ids).drop_null().cast(names.type)])
    return pc.sum(pc.is_in(names, value_set=known)).as_py() or 0


def write_rows(
    folder: Path,
    vocabulary: Vocabulary,
    matches: Matches,
    is_held_out: np.ndarray,
    catalog: SequenceSource | None,
) -> None:
    """Write the reference set's rows, the held-out labels, and the labels' names with the number of their proteins."""
    reference, held_out = (matches.rows.filter(pa.array(each)) for each in (~is_held_out, is_held_out))
    codes = take_labels(matches, np.flatnonzero(~is_held_out))
    counts = np.bincount(codes.flatten().to_numpy(), minlength=len(vocabulary.names))
    with ParquetSink(folder / NAMES, NAMES_SCHEMA, GROUP_ROWS) as sink:
        sink.write(pa.table([vocabulary.names, counts, vocabulary.namespaces, vocabulary.is_root], schema=NAMES_SCHEMA))
    with ParquetSink(folder / HELD_OUT, HELD_OUT_SCHEMA, GROUP_ROWS) as sink:
        truth = take_labels(matches, np.flatnonzero(is_held_out))
        sink.write(pa.table([held_out["id"], truth], schema=HELD_OUT_SCHEMA))
    with ParquetSink(folder / ROWS, ROWS_SCHEMA, GROUP_ROWS, use_dictionary=False) as sink:
        for start in range(0, len(reference), GROUP_ROWS):
            rows = reference.slice(start, GROUP_ROWS)
            if catalog is None:
                sequences = pa.nulls(len(rows), pa.large_string())
            else:
                sequences = read_source(catalog, rows["id"].to_pylist(), rows["digest"].to_pylist())
            block = [rows["id"], rows["digest"], codes.slice(start, len(rows)), sequences]
            sink.write(pa.table(block, schema=ROWS_SCHEMA))


def take_labels(matches: Matches, rows: np.ndarray) -> pa.ListArray:
    """Return the labels, as positions in the names, of some rows."""
    starts, ends = matches.offsets[rows], matches.offsets[rows + 1]
    offsets = np.concatenate([[0], np.cumsum(ends - starts)])
    flat = matches.codes[ranges(starts, ends)]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, pa.int32()), type=LABELS.type)


def gather_vectors(data: Dataset, column: str, ids: pa.Array, path: Path) -> None:
    """Write the vectors in a column, of some sorted ids, in their order, as a NumPy file of float16 [n, D]."""
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(len(ids), data.dimension))
    missing = len(ids)
    with Progress("gather vectors", "rows", len(data)) as progress:
        for file in data.files():
            for rows in row_groups(data.folder / file["file"], column, ids):
                place = pc.index_in(rows["id"], value_set=ids).to_numpy()
                out[place] = vector_matrix(rows[column])
                missing -= len(place)
            progress.update(file["rows"])
    out.flush()
    if missing:
        raise RuntimeError(f"{missing} annotated rows were not found again")


def row_groups(path: Path, column: str, ids: pa.Array) -> Iterator[pa.Table]:
    """Yield a file's rows that have one of the ids, id and vector, a row group at a time; other groups are not read."""
    file = ParquetFile(path)
    for group in range(file.num_row_groups):
        wanted = pc.is_in(file.read_row_group(group, ["id"], use_threads=False)["id"], value_set=ids)
        if pc.any(wanted).as_py():
            yield file.read_row_group(group, ["id", column], use_threads=False).filter(wanted)


def index_vectors(folder: Path, settings: AnnotateSettings, threads: int) -> dict[str, Any]:
    """Index the reference set's vectors; return what the index is."""
    faiss = load_faiss()
    vectors = np.load(folder / VECTORS, mmap_mode="r")
    metric = INDEX_METRICS[settings.metric]
    index = build_index(
        partial(iter_blocks, vectors),
        vectors.shape[1],
        len(vectors),
        metric=metric,
        exact_up_to=settings.exact_up_to,
        seed=SEED,
        threads=threads,
    )
    faiss.write_index(index, str(folder / INDEX))
    if not isinstance(index, faiss.IndexIVF):
        return {"kind": "exact"}
    return {"kind": "inverted file", "lists": index.nlist, "lists_searched": index.nprobe, "seed": SEED}


def iter_blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Yield a matrix, some rows at a time."""
    for start in range(0, len(vectors), BLOCK_ROWS):
        yield vectors[start : start + BLOCK_ROWS]
