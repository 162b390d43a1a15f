"""What each sampled sequence is called by in figures: its family, its taxon, its annotation; each with one style."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from embedome.analysis.palette import PALETTE, Style, assign_styles
from embedome.dataset.part_file import iter_rows

# Of the commonest labels each has a style; more could not be told apart.
STYLED = len(PALETTE)


@dataclass(frozen=True, slots=True)
class Labels:
    """A label for each of n sequences, of one kind."""

    kind: str
    values: list[str | None]
    """None where it is not known."""
    styles: dict[str, Style]
    """Of the commonest, chosen from all sampled sequences: the same in every figure."""

    @classmethod
    def of(cls, kind: str, values: list[str | None]) -> Self:
        """Return labels with the styles of the commonest."""
        return cls(kind, values, assign_styles(Counter(value for value in values if value is not None), STYLED))


def sample_labels(sample: pa.Table) -> Labels:
    """Return the families of the sampled sequences where these are known, else their taxa."""
    if sample["family"].null_count < len(sample):
        return Labels.of("family", sample["family"].to_pylist())
    return Labels.of("taxon", [taxon and str(taxon) for taxon in sample["taxid"].to_pylist()])


def sample_annotation(ids: list[str], files: Iterable[str | os.PathLike]) -> Labels:
    """Return the annotation's most reliable label of each sequence.

    Parameters
    ----------
    ids : list of str
        The sampled sequences.
    files : iterable of paths
        Parquet files of the annotation: columns id, label and rank.
    """
    wanted = pa.array(ids, pa.string())
    found: dict[str, str] = {}
    for path in files:
        for batch in iter_rows(path, ["id", "label", "rank"]):
            mine = batch.filter(pc.and_(pc.equal(batch["rank"], 1), pc.is_in(batch["id"], wanted)))
            # Of labels that are equally reliable the first.
            for name, label in zip(mine["id"].to_pylist(), mine["label"].to_pylist(), strict=True):
                found.setdefault(name, label)
    return Labels.of("annotation", [found.get(name) for name in ids])
