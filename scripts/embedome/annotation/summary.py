"""Rule annotate_summary: the partitions' counts added up, and scored where labels were held out."""

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedome.annotation.hits import Hits, Queries
from embedome.annotation.reference_set import ReferenceSet, check_reference
from embedome.annotation.score import score_annotation
from embedome.annotation.transfer import Transferred
from embedome.common.errors import UserError
from embedome.common.json_files import write_json
from embedome.dataset.format import METADATA_KEY
from embedome.dataset.open import open_dataset
from embedome.parquet.reader import ParquetFile

log = logging.getLogger(__name__)


class AnnotationCounts:
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
        """Return the counts; those of queries add up."""
        names = ("queries", "annotated", "without_hit", "below_min_reliability")
        more = ("hits", "rows", "labels_below_min_reliability")
        return {name: self.counts[name] for name in (*names, *more)} | {"left_out": dict(sorted(self.left_out.items()))}


def summarise(
    dataset: str | os.PathLike, reference: str | os.PathLike, files: Sequence[str | os.PathLike], out: str | os.PathLike
) -> dict[str, Any]:
    """Add up the partitions, and score what was carried over to held-out proteins.

    Parameters
    ----------
    dataset, reference : path
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
    data, opened = open_dataset(dataset), ReferenceSet(reference)
    check_reference(dataset, data, opened)
    totals: dict[str, AnnotationCounts] = {split: AnnotationCounts() for split in data.splits}
    paths: dict[str, list[Path]] = {split: [] for split in data.splits}
    for path in map(Path, files):
        about = read_about(path)
        if about["annotation"] != opened.about:
            raise UserError(f"{path}: made with another reference set; delete it and run again")
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
    scored = [path for split in opened.settings.hold_out for path in paths[split]]
    summary = opened.about | {
        "splits": {split: totals[split].as_json() for split in data.splits},
        "score": score_annotation(opened, scored) if scored else None,
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
        if path.resolve() not in mine and is_partition(path):
            log.info("removing %s, of an earlier run", path)
            path.unlink()


def is_partition(path: Path) -> bool:
    """Return whether a file is one of an annotation."""
    try:
        return bool(read_about(path))
    except UserError:
        return False


def read_about(path: Path) -> dict[str, Any]:
    """Read what a file of an annotation records of itself.

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
