"""One head trained on one layer's features with one seed: its scores and predictions, kept in two files.

The scores are written last: where they are, of the same data and settings, nothing is trained again.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedome.common.atomic_files import atomic_path
from embedome.common.json_files import json_sha256, read_json, round_digits, write_json
from embedome.evaluation.examples import ExampleSet, Labelling
from embedome.evaluation.fit import TorchFit
from embedome.evaluation.head_data import HeadData
from embedome.evaluation.head_recipes import LINEAR, RECIPES, RIDGE
from embedome.evaluation.linear_heads import LogisticFit, RidgeFit
from embedome.evaluation.metrics import better, predictions_of, score
from embedome.evaluation.tasks import CLASSES, LABELS, PROTEIN, RESIDUE, TEST, TRAIN, VAL, Task

log = logging.getLogger(__name__)

Fit = TorchFit | RidgeFit | LogisticFit
IDENTITY = "identity"
# In a string of residues' classes, one that does not count.
NOT_COUNTED = "-"


@dataclass(frozen=True, slots=True)
class Run:
    """What is trained.

    Parameters
    ----------
    method, head : str
    layer : int or None
        None of methods without a model.
    seed : int
    """

    method: str
    head: str
    layer: int | None
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        layer = "" if self.layer is None else f".layer{self.layer}"
        return f"{self.head}{layer}.seed{self.seed}"


def is_seeded(head: str, labelling: Labelling) -> bool:
    """Return whether a head's result depends on the seed: not where it is solved whole."""
    return head != RIDGE and (head != LINEAR or labelling.level == RESIDUE or labelling.kind != CLASSES)


def task_identity(
    task: Task, examples: ExampleSet, digests: Mapping[str, str], threads: int, device: str
) -> dict[str, Any]:
    """Return what a run's result depends on beside features or model, recipe and seed."""
    return {
        "data": sorted(digests.values()),
        "task": json_sha256(asdict(task)),
        "splits": json_sha256([examples.ids, examples.splits.tolist()]),
        "threads": threads,
        "device": device,
    }


def find_run(folder: Path, run: Run, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return a run's scores where it has been done, of the same data and settings; None otherwise."""
    path = folder / f"{run.name}.json"
    if not path.is_file():
        return None
    found = read_json(path)
    return found if found.get(IDENTITY) == identity else None


def do_run(folder: Path, run: Run, identity: dict[str, Any], fit: Fit, metric: str) -> dict[str, Any]:
    """Train what `fit` trains, score it, and write scores and predictions; return the scores."""
    data = fit.data
    val = data.of_split(VAL)
    fit.fit(lambda outputs: better(metric, scores_of(data, val, outputs)[metric]))
    test = data.of_split(TEST)
    outputs = fit.predict(test)
    on_val, on_test = scores_of(data, val, fit.predict(val)), scores_of(data, test, outputs)
    found = {
        "seed": run.seed,
        "epochs": fit.epochs,
        "penalty": getattr(fit, "penalty", None),
        "proteins": {split: len(data.of_split(split)) for split in (TRAIN, VAL, TEST)},
        "val": on_val,
        "test": on_test,
        IDENTITY: identity,
    }
    write_predictions(folder / f"{run.name}.parquet", data, test, outputs)
    write_json(folder / f"{run.name}.json", found)
    text = "%s, %s: %s %.4f on test, %.4f on validation"
    log.info(text, run.method, run.name, metric, on_test[metric], on_val[metric])
    return found


def make_fit(run: Run, data: HeadData, device: str) -> Fit:
    """Make what trains a head."""
    if run.head == RIDGE:
        return RidgeFit(data, run.seed)
    if run.head == LINEAR:
        return LogisticFit(data, run.seed)
    return TorchFit(RECIPES[run.head], data, run.seed, device)


def scores_of(data: HeadData, indices: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
    """Score outputs [T, C] for proteins, rounded as they are written."""
    labelling = data.examples.labelling
    truth, predicted, proteins = counted(data, indices, predictions_of(labelling, outputs))
    return {name: round_digits(value) for name, value in score(labelling, truth, predicted, proteins).items()}


def counted(data: HeadData, indices: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth and prediction of the labels that count, and which protein each is of, from 0."""
    truth, mask = data.targets(indices)
    proteins = np.repeat(np.arange(len(indices)), label_counts(data, indices))
    return truth[mask], predicted[mask], proteins[mask]


def label_counts(data: HeadData, indices: np.ndarray) -> np.ndarray:
    """Return the labels of each protein, int64."""
    parts = [data.labels(each) for each in indices]
    return np.array([part.stop - part.start for part in parts], np.int64)


def write_predictions(path: Path, data: HeadData, indices: np.ndarray, outputs: np.ndarray) -> None:
    """Write what is predicted for each protein beside its labels."""
    labelling = data.examples.labelling
    truth, mask = data.targets(indices)
    ends = np.cumsum(label_counts(data, indices))[:-1]
    columns = {
        "id": [data.examples.ids[each] for each in indices],
        "residues": pa.array(data.features.counts[indices], pa.int32()),
        "target": [encode(labelling, *each) for each in zip(np.split(truth, ends), np.split(mask, ends), strict=True)],
        "prediction": [encode(labelling, each, None) for each in np.split(predictions_of(labelling, outputs), ends)],
    }
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def encode(labelling: Labelling, values: np.ndarray, mask: np.ndarray | None) -> Any:
    """Return a protein's labels as a table has them: of residues a string of classes, or a list."""
    counts = np.ones(len(values), bool) if mask is None else mask
    if labelling.kind == CLASSES:
        names = [
            labelling.classes[each] if is_counted else NOT_COUNTED
            for each, is_counted in zip(values.tolist(), counts, strict=True)
        ]
        return "".join(names)
    if labelling.kind == LABELS:
        sets = [[labelling.classes[each] for each in np.flatnonzero(row)] for row in values]
        return sets[0] if labelling.level == PROTEIN else ["".join(each) for each in sets]
    numbers = [value if is_counted else None for value, is_counted in zip(values.tolist(), counts, strict=True)]
    return numbers[0] if labelling.level == PROTEIN else numbers


def read_predictions(path: Path, labelling: Labelling) -> np.ndarray:
    """Return what was predicted, as `metrics.predictions_of`, one protein after the other."""
    found = pq.read_table(path, columns=["prediction"])["prediction"].to_pylist()
    index = {name: position for position, name in enumerate(labelling.classes)}
    by_residue = labelling.level == RESIDUE
    if labelling.kind == CLASSES:
        names = [letter for each in found for letter in each] if by_residue else found
        return np.array([index[name] for name in names], np.int64)
    if labelling.kind == LABELS:
        sets = [each for names in found for each in names] if by_residue else found
        values = np.zeros((len(sets), len(index)), np.float32)
        for row, names in zip(values, sets, strict=True):
            row[[index[name] for name in names]] = 1
        return values
    return np.array([value for each in found for value in each] if by_residue else found, np.float64)
