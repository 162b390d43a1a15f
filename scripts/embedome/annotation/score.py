"""How well carried-over labels agree with held-out ones, beside two baselines that know no vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.annotation.reference_set import ReferenceSet, ranges
from embedome.parquet.reader import ParquetFile

THRESHOLDS = np.arange(101) / 100
BINS = 10
SEED = 0
BLOCK_PROTEINS = 1 << 14


@dataclass(frozen=True, slots=True)
class Truth:
    """The held-out labels: those of protein i are ``codes[offsets[i]:offsets[i + 1]]``, ascending."""

    ids: pa.Array
    offsets: np.ndarray
    codes: np.ndarray
    width: int
    """Number of labels."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sizes(self) -> np.ndarray:
        """The number of labels of each protein."""
        return np.diff(self.offsets)

    @property
    def proteins(self) -> np.ndarray:
        """The protein of each label."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def has(self, protein: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Return whether proteins carry labels, bool, one for each pair."""
        keys = self.proteins * self.width + self.codes
        wanted = protein * self.width + label
        return keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predicted labels, those of one protein together, with a score from 0 to 1, and whether they are right."""

    protein: np.ndarray
    score: np.ndarray
    right: np.ndarray


class Curve:
    """Protein-centric precision and recall over thresholds of the score, added up from blocks of proteins.

    At a threshold t, precision is the mean over the proteins with at least one label scored t or more, recall the mean
    over all; ``Fmax`` is the largest harmonic mean of the two.

    References
    ----------
    Radivojac et al. 2013, A large-scale evaluation of computational protein function prediction, Nature Methods 10:221,
    doi:10.1038/nmeth.2340
    """

    def __init__(self, sizes: np.ndarray) -> None:
        self.sizes = sizes
        self.precision, self.recall, self.covered = (np.zeros(len(THRESHOLDS)) for _ in range(3))

    def add(self, predicted: Predicted) -> None:
        """Add proteins, none of which was added before."""
        proteins, local = np.unique(predicted.protein, return_inverse=True)
        level = np.searchsorted(THRESHOLDS.astype(np.float32), predicted.score.astype(np.float32), side="right") - 1
        counts = []
        for counted in (level >= 0, (level >= 0) & predicted.right):
            table = np.zeros((len(proteins), len(THRESHOLDS)), np.int32)
            np.add.at(table, (local[counted], level[counted]), 1)
            counts.append(table[:, ::-1].cumsum(1)[:, ::-1])
        made, right = counts
        self.precision += np.divide(right, made, out=np.zeros(made.shape), where=made > 0).sum(0)
        self.covered += (made > 0).sum(0)
        self.recall += (right / self.sizes[proteins][:, None]).sum(0)

    def fmax(self) -> dict[str, float]:
        """Return the largest F, and where; the largest threshold of equals."""
        precision = np.divide(self.precision, self.covered, out=np.zeros(len(THRESHOLDS)), where=self.covered > 0)
        recall = self.recall / len(self.sizes)
        both = precision + recall
        f = np.divide(2 * precision * recall, both, out=np.zeros(len(THRESHOLDS)), where=both > 0)
        best = len(f) - 1 - int(np.argmax(f[::-1]))
        found = {"fmax": f[best], "threshold": THRESHOLDS[best], "precision": precision[best], "recall": recall[best]}
        return {name: round(float(value), 6) for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class Known:
    """The labels of the reference set that count: those of row i are ``codes[offsets[i]:offsets[i + 1]]``."""

    n_lookup: np.ndarray
    """How many rows carry each label."""
    offsets: np.ndarray
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


def score_annotation(reference: ReferenceSet, files: Sequence[Path]) -> dict[str, Any] | None:
    """Compare carried-over labels with held-out ones.

    Parameters
    ----------
    reference : ReferenceSet
    files : sequence of paths
        The annotation of the held-out splits.

    Returns
    -------
    dict or None
        As `score_labels`, of all labels but the roots of the ontology; besides ``namespaces``, the same of the labels
        of each of its namespaces.
    """
    counted = ~reference.is_root
    whole = score_labels(reference, files, counted)
    spaces = pc.unique(reference.namespaces.drop_null()).sort().to_pylist()
    if whole is None or not spaces:
        return whole
    found = {}
    for space in spaces:
        mine = pc.fill_null(pc.equal(reference.namespaces, space), False).to_numpy(zero_copy_only=False)
        found[space] = score_labels(reference, files, counted & mine)
    return whole | {"namespaces": found}


def score_labels(reference: ReferenceSet, files: Sequence[Path], counted: np.ndarray) -> dict[str, Any] | None:
    """Score some of the labels.

    Parameters
    ----------
    reference, files : as of `score_annotation`
    counted : numpy.ndarray, dtype=bool
        Which labels count. Proteins that have none of them do not count either, held-out ones and those of the
        reference set.

    Returns
    -------
    dict or None
        None where no held-out protein has a label. ``accuracy``: the fraction of the proteins whose first label is one
        of their own; one without any label counts as wrong. ``fmax``: see `Curve`. Each of the labels carried over,
        of the commonest label (for Fmax: every label, scored by its frequency in the reference set), and of the labels
        of a random annotated protein.
    """
    held_out = reference.held_out()
    offsets, codes = held_out["labels"].offsets.to_numpy(), held_out["labels"].flatten().to_numpy().astype(np.int64)
    has_any, offsets, codes = select_labels(offsets, codes, counted)
    truth = Truth(held_out["id"].filter(pa.array(has_any)), offsets, codes, len(reference.names))
    _, offsets, codes = select_labels(reference.offsets, reference.codes, counted)
    known = Known(np.where(counted, reference.n_lookup, 0), offsets, codes)
    if not len(truth):
        return None
    curve, top, every = Curve(truth.sizes), Bins(), Bins()
    covered = 0
    for path in files:
        for predicted, is_first in read_predicted(path, truth, reference.names, counted):
            curve.add(predicted)
            top.add(predicted.score[is_first], predicted.right[is_first])
            every.add(predicted.score, predicted.right)
            covered += int(is_first.sum())
    single = bool((truth.sizes == 1).all() and (np.diff(known.offsets) == 1).all())
    return {
        "proteins": len(truth),
        "with_a_label": covered,
        "one_label_each": single,
        "labels_not_in_lookup": int((known.n_lookup[np.unique(truth.codes)] == 0).sum()),
        "accuracy": {"carried_over": round(top.right.sum() / len(truth), 6), **baseline_accuracy(known, truth)},
        "fmax": {"carried_over": curve.fmax(), **baseline_fmax(known, truth)},
        "first_label_by_reliability": top.as_json("proteins"),
        "labels_by_reliability": every.as_json("labels"),
    }


def select_labels(
    offsets: np.ndarray, codes: np.ndarray, counted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which rows have labels that count, and their offsets and codes with these labels alone."""
    kept = counted[codes]
    # How many of the labels before each count.
    before = np.concatenate([[0], np.cumsum(kept)])[offsets]
    has_any = np.diff(before) > 0
    return has_any, before[np.append(True, has_any)], codes[kept]


def read_predicted(
    path: Path, truth: Truth, names: pa.Array, counted: np.ndarray
) -> Iterator[tuple[Predicted, np.ndarray]]:
    """Yield the labels of the held-out proteins of a file, some proteins at a time, and which are a protein's first."""
    file, pieces = ParquetFile(path), []
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, columns=["id", "label", "reliability"], use_threads=False)
        pieces.append(rows.filter(pc.is_in(rows["id"], value_set=truth.ids)))
    if not sum(map(len, pieces)):
        return
    rows = pa.concat_tables(pieces)
    label = pc.index_in(rows["label"], value_set=names).to_numpy().astype(np.int64)
    rows, label = rows.filter(pa.array(counted[label])), label[counted[label]]
    protein = pc.index_in(rows["id"], value_set=truth.ids).to_numpy().astype(np.int64)
    # A protein's labels come by rank.
    is_first = np.diff(protein, prepend=-1) != 0
    cuts = [*np.flatnonzero(is_first)[::BLOCK_PROTEINS], len(protein)]
    for start, end in pairwise(cuts):
        block = slice(start, end)
        right = truth.has(protein[block], label[block])
        yield Predicted(protein[block], rows["reliability"].to_numpy()[block], right), is_first[block]


class Bins:
    """Labels, and right ones among them, by tenths of the reliability."""

    def __init__(self) -> None:
        self.made, self.right = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)

    def add(self, score: np.ndarray, right: np.ndarray) -> None:
        """Count labels."""
        place = np.clip((score * BINS).astype(np.int64), 0, BINS - 1)
        self.made += np.bincount(place, minlength=BINS)
        self.right += np.bincount(place[right], minlength=BINS)

    def as_json(self, unit: str) -> list[dict[str, Any]]:
        """Return a row for each tenth that has any."""
        return [
            {
                "from": place / BINS,
                "to": (place + 1) / BINS,
                unit: int(made),
                "right": int(right),
                "fraction": round(right / made, 6),
            }
            for place, (made, right) in enumerate(zip(self.made, self.right, strict=True))
            if made
        ]


def baseline_accuracy(known: Known, truth: Truth) -> dict[str, float]:
    """Return how often the commonest label is right, and, on average, a random label of a random annotated protein."""
    if not len(known):
        return {"commonest_label": 0.0, "random_neighbour": 0.0}
    commonest = int(np.argmax(known.n_lookup))
    sizes = np.diff(known.offsets)
    share = np.bincount(known.codes, weights=np.repeat(1 / sizes, sizes), minlength=truth.width) / len(sizes)
    return {
        "commonest_label": round(int((truth.codes == commonest).sum()) / len(truth), 6),
        "random_neighbour": round(float(share[truth.codes].sum()) / len(truth), 6),
    }


def baseline_fmax(known: Known, truth: Truth) -> dict[str, dict[str, float]]:
    """Return Fmax of every label scored by its frequency, and of all labels of a random annotated protein."""
    return {
        "commonest_label": frequencies_curve(known, truth).fmax(),
        "random_neighbour": random_curve(known, truth).fmax(),
    }


def frequencies_curve(known: Known, truth: Truth) -> Curve:
    """Make the curve of every label predicted for every protein, scored by its share of the reference set."""
    curve = Curve(truth.sizes)
    score = (known.n_lookup / max(1, len(known))).astype(np.float32)
    levels = np.where(score > 0, np.searchsorted(THRESHOLDS.astype(np.float32), score, side="right"), 0)
    made = np.bincount(levels, minlength=len(THRESHOLDS) + 1)[1:][::-1].cumsum()[::-1]
    for start in range(0, len(truth), BLOCK_PROTEINS):
        sizes = truth.sizes[start : start + BLOCK_PROTEINS]
        codes = truth.codes[truth.offsets[start] : truth.offsets[start + len(sizes)]]
        table = np.zeros((len(sizes), len(THRESHOLDS) + 1), np.int32)
        np.add.at(table, (np.repeat(np.arange(len(sizes)), sizes), levels[codes]), 1)
        right = table[:, 1:][:, ::-1].cumsum(1)[:, ::-1]
        curve.precision += np.divide(right, made, out=np.zeros(right.shape), where=made > 0).sum(0)
        curve.covered += (made > 0) * len(sizes)
        curve.recall += (right / sizes[:, None]).sum(0)
    return curve


def random_curve(known: Known, truth: Truth) -> Curve:
    """Make the curve of the labels of an annotated protein drawn for each protein, all scored 1."""
    curve, random = Curve(truth.sizes), np.random.default_rng(SEED)
    for start in range(0, len(truth) if len(known) else 0, BLOCK_PROTEINS):
        proteins = np.arange(start, min(start + BLOCK_PROTEINS, len(truth)))
        drawn = random.integers(len(known), size=len(proteins))
        begins, ends = known.offsets[drawn], known.offsets[drawn + 1]
        protein = np.repeat(proteins, ends - begins)
        label = known.codes[ranges(begins, ends)].astype(np.int64)
        curve.add(Predicted(protein, np.ones(len(label), np.float32), truth.has(protein, label)))
    return curve
