"""Annotate stage: labels of annotated proteins carried over to all others, partition by partition.

A partition is a shard's part files with a share of its split's duplicates. Memory: the look-up set's vectors, and a
row group of the data set.
"""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.annotation_score import score_annotation
from embedome.catalog.table import read_sequences
from embedome.common.atomic_files import atomic_directory, atomic_path
from embedome.common.errors import UserError
from embedome.common.json_files import canonical_json, write_json
from embedome.common.log import Progress
from embedome.dataset.dataset import Dataset
from embedome.dataset.format import METADATA_KEY
from embedome.dataset.open import open_dataset
from embedome.hits import HitFinder, Hits, Queries
from embedome.labels import LabelSource
from embedome.lookup_build import build_lookup, dataset_identity
from embedome.lookup_set import AnnotateSettings, LookupSet
from embedome.parquet.reader import ParquetFile
from embedome.parquet.vectors import vector_matrix
from embedome.parquet.writer import ParquetSink
from embedome.transfer import Transferred, transfer_labels

log = logging.getLogger(__name__)


GROUP_ROWS = 1 << 16
QUERY_ROWS = 1024
COLUMNS = ["id", "digest", "embedding"]
LOOKUP_FOLDER, SUMMARY = "_lookup", "_summary.json"
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


@dataclass(frozen=True, slots=True)
class Partition:
    """What one job annotates: number `index` of `of` equal shares of a split's files, and of those of duplicates."""

    split: str
    index: int
    of: int

    @property
    def name(self) -> str:
        """Path of its file in the annotation."""
        return f"split={self.split}/part-{self.index:05d}.parquet"

    def files(self, data: Dataset) -> tuple[list[Path], list[Path]]:
        """Its part files and its files of duplicates, each in the order of their ids."""
        files: tuple[list[Path], list[Path]] = ([], [])
        for entry in data.files(self.split):
            kind, _ = file_number(entry["file"])
            files[kind == "duplicates"].append(data.folder / entry["file"])
        parts, duplicates = (
            [path for place, path in enumerate(paths) if place * self.of // len(paths) == self.index] for paths in files
        )
        return parts, duplicates


def file_number(name: str) -> tuple[str, int]:
    """A data set's file: whether it holds parts or duplicates, and the number of its shard, or its own."""
    match = re.fullmatch(r"(part|duplicates)-(\d+).*", Path(name).name)
    return (match[1], int(match[2])) if match else ("part", 0)


def list_partitions(data: Dataset) -> list[Partition]:
    """A partition for each shard."""
    found = []
    for split in data.splits:
        numbers = [file_number(entry["file"]) for entry in data.files(split)]
        shards = max((number for kind, number in numbers if kind == "part"), default=0) + 1
        found += [Partition(split, index, shards) for index in range(shards)]
    return found


def annotate_partition(
    dataset: str | os.PathLike,
    lookup: str | os.PathLike,
    partition: Partition,
    out: str | os.PathLike,
    *,
    catalog: str | os.PathLike | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Carry labels over to the proteins of a partition.

    Parameters
    ----------
    dataset, lookup : path
        Folder of the data set, and what `lookup_build.build_lookup` made of it.
    partition : Partition
    out : path
        The Parquet file to write: rows sorted by id, then rank.
    catalog : path, optional
        results/catalog; needed where the look-up set was built for a largest identity.
    threads : int

    Returns
    -------
    dict
        Counts: queries, and what became of them.

    Raises
    ------
    UserError
        Where the look-up set is of another data set, or sequences are missing.
    """
    data, reference = open_dataset(dataset), LookupSet(lookup)
    check_lookup(dataset, data, reference)
    return annotate_files(data, HitFinder(reference, reference.settings, threads), partition, out, catalog)


def annotate_files(
    data: Dataset, finder: HitFinder, partition: Partition, out: str | os.PathLike, catalog: str | os.PathLike | None
) -> dict[str, Any]:
    """Annotate a partition's files, see `annotate_partition`."""
    reference, settings, account = finder.lookup, finder.settings, Account()
    parts, duplicates = partition.files(data)
    total = sum(ParquetFile(path).metadata.num_rows for path in (*parts, *duplicates))
    dictionary = ["id", "label", "nearest"]
    with (
        atomic_path(out) as path,
        ParquetSink(path, SCHEMA, GROUP_ROWS, use_dictionary=dictionary, write_statistics=["id", "label"]) as sink,
        Progress("annotate", "proteins", total) as progress,
    ):
        for rows in batches(in_id_order(read_groups(parts), read_groups(duplicates))):
            queries = make_queries(rows, catalog if settings.max_identity is not None else None)
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


def check_lookup(dataset: str | os.PathLike, data: Dataset, lookup: LookupSet) -> None:
    """Refuse the look-up set of another data set."""
    if lookup.about["dataset"] != dataset_identity(dataset, data):
        raise UserError(f"{lookup.folder}: made from another data set than {dataset}; delete it and run again")


def read_groups(paths: Iterable[Path]) -> Iterator[pa.Table]:
    """The rows of files, a row group at a time, none empty."""
    for path in paths:
        file = ParquetFile(path)
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=COLUMNS, use_threads=False)
            if len(rows):
                yield rows


def in_id_order(one: Iterator[pa.Table], other: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Merge two streams of tables into one; all in the order of their ids, none empty."""
    streams = one, other
    waiting = [next(stream, None) for stream in streams]
    while all(table is not None for table in waiting):
        pivot = min(table["id"][-1].as_py() for table in waiting)
        ready = []
        for number, table in enumerate(waiting):
            cut = pc.sum(pc.less_equal(table["id"], pivot)).as_py()
            ready.append(table.slice(0, cut))
            waiting[number] = table.slice(cut) if cut < len(table) else next(streams[number], None)
        yield pa.concat_tables(ready).combine_chunks().sort_by("id")
    for table, stream in zip(waiting, streams, strict=True):
        if table is not None:
            yield table
        yield from stream


def batches(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of at most `QUERY_ROWS` rows."""
    for table in tables:
        for start in range(0, len(table), QUERY_ROWS):
            yield table.slice(start, QUERY_ROWS).combine_chunks()


def make_queries(rows: pa.Table, catalog: str | os.PathLike | None) -> Queries:
    """Rows of the data set as queries, with their sequences where a catalog is given."""
    ids, digests = (rows[name].combine_chunks() for name in ("id", "digest"))
    sequences = None if catalog is None else read_sequences(catalog, ids.to_pylist()).to_pylist()
    return Queries(ids, digests, vector_matrix(rows["embedding"]), sequences)


def label_rows(queries: Queries, hits: Hits, labels: Transferred, lookup: LookupSet) -> pa.Table:
    """The rows to write."""
    columns = [
        queries.ids.take(pa.array(labels.query)),
        lookup.names.take(pa.array(labels.label)),
        pa.array(labels.reliability.astype(np.float32)),
        pa.array(labels.n_hits.astype(np.int32)),
        lookup.ids.take(pa.array(hits.row[labels.nearest])),
        pa.array(hits.distance[labels.nearest].astype(np.float32)),
        pa.array(labels.rank.astype(np.int32)),
    ]
    return pa.table(columns, schema=SCHEMA)


class Account:
    """What became of the queries."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()

    def add(self, queries: Queries, hits: Hits, labels: Transferred) -> None:
        """Count a batch."""
        with_hit, annotated = len(np.unique(hits.query)), len(np.unique(labels.query))
        self.counts.update(
            queries=len(queries),
            annotated=annotated,
            without_hit=len(queries) - with_hit,
            below_min_reliability=with_hit - annotated,
            hits=len(hits.query),
            rows=len(labels.query),
            labels_below_min_reliability=labels.below,
        )
        self.left_out.update(hits.left_out)

    def as_json(self) -> dict[str, Any]:
        """The counts; those of queries add up."""
        names = ("queries", "annotated", "without_hit", "below_min_reliability")
        more = ("hits", "rows", "labels_below_min_reliability")
        return {name: self.counts[name] for name in (*names, *more)} | {"left_out": dict(sorted(self.left_out.items()))}


def summarise(
    dataset: str | os.PathLike, lookup: str | os.PathLike, files: Sequence[str | os.PathLike], out: str | os.PathLike
) -> dict[str, Any]:
    """Add up the partitions, and score what was carried over to held-out proteins.

    Parameters
    ----------
    dataset, lookup : path
        As for `annotate_partition`.
    files : sequence of paths
        What it wrote, every partition.
    out : path
        The JSON file to write; partitions of an earlier run beside it are removed.

    Raises
    ------
    UserError
        Where a partition is of another run, there twice, or missing.
    """
    data, reference = open_dataset(dataset), LookupSet(lookup)
    check_lookup(dataset, data, reference)
    totals: dict[str, Account] = {split: Account() for split in data.splits}
    paths: dict[str, list[Path]] = {split: [] for split in data.splits}
    for path in map(Path, files):
        about = read_about(path)
        if about["annotation"] != reference.about:
            raise UserError(f"{path}: made with another look-up set; delete it and run again")
        split, counts = about["partition"]["split"], about["counts"]
        totals[split].left_out.update(counts.pop("left_out"))
        totals[split].counts.update(counts)
        paths[split].append(path)
    for split in data.splits:
        expected = sum(file["rows"] for file in data.files(split))
        found = totals[split].counts
        if found["queries"] != expected:
            raise UserError(
                f"{Path(out).parent}: {found['queries']:,} proteins of split {split} were annotated; "
                f"expected {expected:,}, each once; annotate every partition"
            )
        parts = ("annotated", "without_hit", "below_min_reliability")
        if found["queries"] != sum(found[name] for name in parts):
            raise RuntimeError(f"split {split}: the counts do not add up: {dict(found)}")
    scored = [path for split in reference.settings.hold_out for path in paths[split]]
    summary = reference.about | {
        "splits": {split: totals[split].as_json() for split in data.splits},
        "score": score_annotation(reference, scored) if scored else None,
    }
    remove_others(Path(out).parent, files)
    write_json(out, summary)
    if summary["score"]:
        log.info("%s: score %s", out, json.dumps({key: summary["score"][key] for key in ("accuracy", "fmax")}))
    return summary


def remove_others(folder: Path, files: Sequence[str | os.PathLike]) -> None:
    """Remove partitions of an earlier run, which was cut into more: whoever reads the folder would read them, too."""
    mine = {Path(path).resolve() for path in files}
    for path in folder.glob("split=*/part-*.parquet"):
        if path.resolve() not in mine:
            log.info("removing %s, of an earlier run", path)
            path.unlink()


def read_about(path: Path) -> dict[str, Any]:
    """What a file of an annotation says of itself.

    Raises
    ------
    UserError
        Where it is none.
    """
    text = (ParquetFile(path).metadata.metadata or {}).get(METADATA_KEY)
    about = {} if text is None else json.loads(text)
    if "annotation" not in about:
        raise UserError(f"{path}: not a file of an annotation")
    return about


def annotate_dataset(
    dataset: str | os.PathLike,
    labels: LabelSource,
    folder: str | os.PathLike,
    settings: AnnotateSettings,
    *,
    catalog: str | os.PathLike | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Annotate a whole data set on this machine; parameters as those of `build_lookup`.

    Parameters
    ----------
    folder : path
        Put in place whole: ``split=<split>/part-*.parquet``, ``_summary.json`` and ``_lookup``.

    Raises
    ------
    UserError
        As the steps do, and where the folder is there and is no annotation.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / SUMMARY).is_file():
        raise UserError(f"{folder}: is there, and is no annotation; name a folder that is not there")
    with atomic_directory(folder) as temporary:
        lookup = temporary / LOOKUP_FOLDER
        build_lookup(dataset, labels, lookup, settings, catalog=catalog, threads=threads)
        data, reference, files = open_dataset(dataset), LookupSet(lookup), []
        finder = HitFinder(reference, settings, threads)
        for partition in list_partitions(data):
            files.append(temporary / partition.name)
            annotate_files(data, finder, partition, files[-1], catalog)
        return summarise(dataset, lookup, files, temporary / SUMMARY)
