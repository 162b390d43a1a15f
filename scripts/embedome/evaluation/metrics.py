"""What predictions are worth: metrics of scikit-learn and SciPy, and their intervals over proteins drawn again.

Shapes: T labels that count, n proteins that they belong to, C classes or labels.
"""

from collections.abc import Sequence

import numpy as np

from embedome.evaluation.examples import Labelling
from embedome.evaluation.tasks import (
    ACCURACY,
    ACCURACY_BY_PROTEIN,
    CLASSES,
    LABELS,
    MACRO_F1,
    MSE,
    NUMBERS,
    RESIDUE,
    SPEARMAN,
)

RESAMPLES, SEED = 1000, 0
# Of the resampled values, what is left out at each end: an interval of 95 %.
TAIL = 0.025
SMALLER_IS_BETTER = (MSE,)


def predictions_of(labelling: Labelling, outputs: np.ndarray) -> np.ndarray:
    """Return what outputs [T, C] predict: int64 classes [T], float32 labels [T, C], or float64 numbers [T]."""
    if labelling.kind == CLASSES:
        return outputs.argmax(1)
    if labelling.kind == LABELS:
        return (outputs > 0).astype(np.float32)
    return outputs[:, 0].astype(np.float64)


def score(labelling: Labelling, truth: np.ndarray, predicted: np.ndarray, proteins: np.ndarray) -> dict[str, float]:
    """Score predictions.

    Parameters
    ----------
    labelling : Labelling
    truth, predicted : numpy.ndarray, shape=(T,) or (T, C)
    proteins : numpy.ndarray, dtype=int64, shape=(T,)
        Which protein each is of, ascending from 0.

    Returns
    -------
    dict of str to float
        Of classes: accuracy, of residues also its mean over proteins, and macro F1 over the classes that occur. Of
        labels: accuracy of single decisions and macro F1. Of numbers: Spearman's correlation, 0 where either is
        constant, and the mean squared error.
    """
    from sklearn.metrics import accuracy_score, f1_score, mean_squared_error

    if labelling.kind == NUMBERS:
        return {SPEARMAN: spearman(truth, predicted), MSE: float(mean_squared_error(truth, predicted))}
    if labelling.kind == LABELS:
        return {
            MACRO_F1: float(f1_score(truth, predicted, average="macro", zero_division=0)),
            ACCURACY: float((truth == predicted).mean()),
        }
    found = {ACCURACY: float(accuracy_score(truth, predicted))}
    if labelling.level == RESIDUE:
        found[ACCURACY_BY_PROTEIN] = float(shares(truth == predicted, proteins).mean())
    return {**found, MACRO_F1: float(f1_score(truth, predicted, average="macro", zero_division=0))}


def spearman(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return Spearman's rank correlation; 0 where either is constant."""
    from scipy.stats import spearmanr

    if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(predicted) == 0:
        return 0.0
    return float(spearmanr(truth, predicted).statistic)


def shares(right: np.ndarray, proteins: np.ndarray) -> np.ndarray:
    """Return the share of right labels of each protein, float64 [n]."""
    return np.bincount(proteins, right) / np.bincount(proteins)


def better(metric: str, value: float) -> float:
    """Return a value whose larger ones are better."""
    return -value if metric in SMALLER_IS_BETTER else value


def resample(
    labelling: Labelling, truth: np.ndarray, predicted: np.ndarray, proteins: np.ndarray
) -> dict[str, np.ndarray]:
    """Score predictions for proteins drawn again with replacement, the same draws each time.

    Parameters
    ----------
    As of `score`.

    Returns
    -------
    dict of str to numpy.ndarray
        float64 [1000] of each metric.
    """
    count = int(proteins.max()) + 1
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    if labelling.kind == NUMBERS:
        squares = np.bincount(proteins, (truth - predicted) ** 2)
        return {
            SPEARMAN: np.array(resampled_spearman(truth, predicted, proteins, drawn)),
            MSE: drawn @ squares / (drawn @ np.bincount(proteins)),
        }
    if labelling.kind == LABELS:
        return resample_labels(truth, predicted, proteins, drawn)
    outputs = labelling.outputs
    cells = (proteins * outputs + truth) * outputs + predicted
    confusion = np.bincount(cells, minlength=count * outputs**2).reshape(count, outputs, outputs)
    drawn_confusion = np.einsum("rn,nij->rij", drawn, confusion, optimize=True)
    right = np.einsum("rii->ri", drawn_confusion)
    found = {ACCURACY: right.sum(1) / drawn_confusion.sum((1, 2))}
    if labelling.level == RESIDUE:
        found[ACCURACY_BY_PROTEIN] = drawn @ shares(truth == predicted, proteins) / count
    return {**found, MACRO_F1: macro_f1(right, drawn_confusion.sum(2) + drawn_confusion.sum(1))}


def resample_labels(
    truth: np.ndarray, predicted: np.ndarray, proteins: np.ndarray, drawn: np.ndarray
) -> dict[str, np.ndarray]:
    """Score several labels for proteins drawn again."""

    def sums(values: np.ndarray) -> np.ndarray:
        """Add up values [T, C] by protein and draw, [1000, C]."""
        by_protein = np.stack([np.bincount(proteins, column) for column in values.T], axis=1)
        return drawn @ by_protein

    right, wrong = sums(truth * predicted), sums(np.abs(truth - predicted))
    labels = drawn @ np.bincount(proteins) * truth.shape[1]
    # Of a label that neither has, F1 is 0, as scikit-learn has it.
    total = 2 * right + wrong
    return {
        MACRO_F1: np.divide(2 * right, total, out=np.zeros_like(right, float), where=total > 0).mean(1),
        ACCURACY: 1 - wrong.sum(1) / labels,
    }


def macro_f1(right: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the mean F1 over classes that occur, [R], of right ones [R, C] and those true or predicted [R, C]."""
    f1 = np.divide(2 * right, total, out=np.zeros(right.shape), where=total > 0)
    return f1.sum(1) / np.maximum(1, (total > 0).sum(1))


def resampled_spearman(
    truth: np.ndarray, predicted: np.ndarray, proteins: np.ndarray, drawn: np.ndarray
) -> list[float]:
    """Return the rank correlation of labels whose proteins are taken as often as drawn, [1000, n].

    Without sorting again: the mean rank of equal values is a matter of how many there are below.
    """
    places = [np.unique(values, return_inverse=True)[1] for values in (truth, predicted)]
    found = []
    for each in drawn:
        times = each[proteins].astype(np.float64)
        first, second = (mean_ranks(place, times) for place in places)
        total = times.sum()
        first, second = first - times @ first / total, second - times @ second / total
        norm = np.sqrt((times @ first**2) * (times @ second**2))
        found.append(float(times @ (first * second) / norm) if norm else 0.0)
    return found


def mean_ranks(places: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the mean rank of each value, by its place among the distinct ones, where each is taken several times."""
    counts = np.bincount(places, times)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the bounds of 95 % of resampled values."""
    low, high = np.quantile(values, (TAIL, 1 - TAIL))
    return float(low), float(high)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds, and their standard deviation, 0 of a single one."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
