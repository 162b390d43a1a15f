"""Annotate stage: labels of annotated proteins carried over to all others, partition by partition.

A partition is a shard's part files with a share of its split's duplicates. Memory: the reference set's vectors, and a
row group of the data set.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedome.annotation.build_reference import LOOKUP_NAMES, build_reference
from embedome.annotation.hits import HitFinder, Hits, Queries
from embedome.annotation.labels import LabelSource
from embedome.annotation.partitions import LOOKUP_FOLDER, SUMMARY, Partition, list_partitions
from embedome.annotation.reference_set import AnnotateSettings, ReferenceSet, check_catalog, check_reference
from embedome.annotation.sequence_source import SequenceSource, read_source
from embedome.annotation.summary import AnnotationCounts, is_partition, summarise
from embedome.annotation.transfer import Transferred, transfer_labels
from embedome.common.atomic_files import atomic_directory, atomic_path
from embedome.common.json_files import canonical_json, read_json
from embedome.common.log import Progress
from embedome.common.outputs import check_outside, check_own_folder
from embedome.dataset.dataset import Dataset
from embedome.dataset.format import METADATA_KEY
from embedome.dataset.open import open_dataset
from embedome.parquet.reader import ParquetFile, merge_by_id
from embedome.parquet.vectors import vector_matrix
from embedome.parquet.writer import ParquetSink

log = logging.getLogger(__name__)

ANNOTATION_NAMES = re.compile(rf"{SUMMARY}|{LOOKUP_FOLDER}/({LOOKUP_NAMES.pattern})|split=\w+/part-\d+\.parquet")

GROUP_ROWS = 1 << 16
QUERY_ROWS = 1024
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("reliability", pa.float32(), nullable=False),
        pa.field("n_hits", pa.int32(), nullable=False),
        pa.field("nearest", pa.string(), nullable=False),
        pa.field("distance", pa.float32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
    ]
)


def annotate_partition(
    dataset: str | os.PathLike,
    reference: str | os.PathLike,
    partition: Partition,
    out: str | os.PathLike,
    *,
    catalog: SequenceSource | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Carry labels over to the proteins of a partition.

    Parameters
    ----------
    dataset, reference : path
        Folder of the data set, and what `build_reference.build_reference` made of it.
    partition : Partition
    out : path
        The Parquet file to write: rows sorted by id, then rank.
    catalog : path or FastaSequences, optional
        results/catalog, or the FASTA files that were embedded; needed where the reference set was built for a largest
        identity.
    threads : int

    Returns
    -------
    dict
        Counts: queries, and what became of them.

    Raises
    ------
    UserError
        Where the reference set is of another data set, or sequences are missing.
    """
    data, opened = open_dataset(dataset), ReferenceSet(reference)
    check_reference(dataset, data, opened)
    return annotate_files(data, HitFinder(opened, opened.settings, threads), partition, out, catalog)


def annotate_files(
    data: Dataset, finder: HitFinder, partition: Partition, out: str | os.PathLike, catalog: SequenceSource | None
) -> dict[str, Any]:
    """Annotate a partition's files, see `annotate_partition`."""
    reference, settings, account = finder.reference, finder.settings, AnnotationCounts()
    check_catalog(settings, catalog)
    parts, duplicates = partition.files(data)
    column = data.column(settings.pooling)
    total = sum(ParquetFile(path).metadata.num_rows for path in (*parts, *duplicates))
    dictionary = ["id", "label", "nearest"]
    with (
        atomic_path(out) as path,
        ParquetSink(path, SCHEMA, GROUP_ROWS, use_dictionary=dictionary, write_statistics=["id", "label"]) as sink,
        Progress("annotate", "proteins", total) as progress,
    ):
        for rows in batches(merge_by_id([read_groups(parts, column), read_groups(duplicates, column)])):
            queries = make_queries(rows, column, catalog if settings.max_identity is not None else None)
            hits = finder.find(queries)
            labels = transfer_labels(
                hits, reference.offsets, reference.codes, settings.metric, settings.min_reliability
            )
            account.add(queries, hits, labels)
            sink.write(label_rows(queries, hits, labels, reference))
            progress.update(len(rows))
        about = {"annotation": reference.about, "partition": asdict(partition), "counts": account.as_json()}
        sink.describe({METADATA_KEY: canonical_json(about)})
    log.info("%s: %s; %s alignments so far", out, json.dumps(account.as_json()), f"{finder.n_alignments:,}")
    return account.as_json()


def read_groups(paths: Iterable[Path], column: str) -> Iterator[pa.Table]:
    """Yield ids, digests and a column of vectors of files, a row group at a time, none empty."""
    for path in paths:
        file = ParquetFile(path)
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["id", "digest", column], use_threads=False)
            if len(rows):
                yield rows


def batches(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Cut tables into those of at most `QUERY_ROWS` rows."""
    for table in tables:
        for start in range(0, len(table), QUERY_ROWS):
            yield table.slice(start, QUERY_ROWS).combine_chunks()


def make_queries(rows: pa.Table, column: str, catalog: SequenceSource | None) -> Queries:
    """Make queries of rows and the vectors in a column, with their sequences where a catalog is named."""
    ids, digests = (rows[name].combine_chunks() for name in ("id", "digest"))
    sequences = None if catalog is None else read_source(catalog, ids.to_pylist(), digests.to_pylist()).to_pylist()
    return Queries(ids, digests, vector_matrix(rows[column]), sequences)


def label_rows(queries: Queries, hits: Hits, labels: Transferred, reference: ReferenceSet) -> pa.Table:
    """Return the rows to write, of `SCHEMA`."""
    columns = [
        queries.ids.take(pa.array(labels.query)),
        reference.names.take(pa.array(labels.label)),
        pa.array(labels.reliability.astype(np.float32)),
        pa.array(labels.n_hits.astype(np.int32)),
        reference.ids.take(pa.array(hits.row[labels.nearest])),
        pa.array(hits.distance[labels.nearest].astype(np.float32)),
        pa.array(labels.rank.astype(np.int32)),
    ]
    return pa.table(columns, schema=SCHEMA)


def check_own_annotation(folder: str | os.PathLike) -> None:
    """Refuse a folder that is no annotation, or holds something else too, before it is replaced."""
    check_own_folder(folder, ANNOTATION_NAMES, is_annotation)


def is_annotation(folder: Path) -> bool:
    """Return whether a folder has the summary of an annotation, and partitions of one alone."""
    about = read_json(folder / SUMMARY) if (folder / SUMMARY).is_file() else None
    is_summary = isinstance(about, dict) and {"labels", "settings", "splits"} <= about.keys()
    return is_summary and all(map(is_partition, folder.glob("split=*/*")))


def annotate_dataset(
    dataset: str | os.PathLike,
    labels: LabelSource,
    folder: str | os.PathLike,
    settings: AnnotateSettings,
    *,
    catalog: SequenceSource | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Annotate a whole data set on this machine; parameters as those of `build_reference.build_reference`.

    Parameters
    ----------
    folder : path
        Put in place whole: ``split=<split>/part-*.parquet``, ``_summary.json`` and ``_lookup``.

    Raises
    ------
    UserError
        As the steps do; where the folder is there and is no annotation, or lies in a data set.
    """
    check_outside(folder)
    with atomic_directory(folder, check_own_annotation) as temporary:
        reference = temporary / LOOKUP_FOLDER
        build_reference(dataset, labels, reference, settings, catalog=catalog, threads=threads)
        data, files = open_dataset(dataset), []
        finder = HitFinder(ReferenceSet(reference), settings, threads)
        for partition in list_partitions(data):
            files.append(temporary / partition.name)
            annotate_files(data, finder, partition, files[-1], catalog)
        return summarise(dataset, reference, files, temporary / SUMMARY)
