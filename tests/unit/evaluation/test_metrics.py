"""Metrics are scikit-learn's and SciPy's, and so are those of proteins that are drawn again."""

import numpy as np
import pytest
from embedome.evaluation.examples import Labelling
from embedome.evaluation.metrics import RESAMPLES, better, interval, mean_and_spread, predictions_of, resample, score
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score, mean_squared_error

RESIDUE_CLASSES = Labelling("residue", "classes", tuple("ABCD"))
PROTEIN_CLASSES = Labelling("protein", "classes", tuple("ABCD"))
LABELS = Labelling("residue", "labels", tuple("ab"))
NUMBERS = Labelling("residue", "numbers")


@pytest.fixture
def made():
    """Labels of 12 proteins, ties among the numbers; the last class occurs in no prediction and no truth."""
    draw = np.random.default_rng(0)
    proteins = np.sort(draw.integers(0, 12, 90))
    proteins = np.unique(proteins, return_inverse=True)[1]
    classes = draw.integers(0, 3, (2, 90))
    labels = draw.integers(0, 2, (2, 90, 2)).astype(np.float32)
    numbers = draw.integers(0, 9, (2, 90)) / 2.0
    return proteins, {"classes": classes, "labels": labels, "numbers": numbers}


def by_library(labelling, truth, predicted, proteins):
    if labelling.kind == "numbers":
        return {"spearman": spearmanr(truth, predicted).statistic, "mse": mean_squared_error(truth, predicted)}
    f1 = f1_score(truth, predicted, average="macro", zero_division=0)
    if labelling.kind == "labels":
        return {"macro_f1": f1, "accuracy": np.mean(truth == predicted)}
    found = {"accuracy": accuracy_score(truth, predicted), "macro_f1": f1}
    if labelling.level == "residue":
        of_each = [np.mean((truth == predicted)[proteins == each]) for each in np.unique(proteins)]
        found["accuracy_by_protein"] = np.mean(of_each)
    return found


@pytest.mark.parametrize("labelling", [RESIDUE_CLASSES, PROTEIN_CLASSES, LABELS, NUMBERS], ids=lambda each: each.kind)
def test_scores_are_those_of_the_libraries(made, labelling):
    proteins, values = made
    truth, predicted = values[labelling.kind]
    assert score(labelling, truth, predicted, proteins) == pytest.approx(
        by_library(labelling, truth, predicted, proteins)
    )


@pytest.mark.parametrize("labelling", [RESIDUE_CLASSES, PROTEIN_CLASSES, LABELS, NUMBERS], ids=lambda each: each.kind)
def test_proteins_drawn_again_have_the_scores_of_their_labels_put_together(made, labelling):
    proteins, values = made
    if labelling.level == "protein":
        proteins = np.arange(90)
    truth, predicted = values[labelling.kind]
    count = proteins.max() + 1
    found = resample(labelling, truth, predicted, proteins)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    for number in (0, 1, 500, 999):
        order = [each for protein, times in enumerate(drawn[number]) for each in [protein] * times]
        rows = np.concatenate([np.flatnonzero(proteins == each) for each in order])
        copies = np.repeat(np.arange(len(order)), [np.sum(proteins == each) for each in order])
        expected = by_library(labelling, truth[rows], predicted[rows], copies)
        assert {name: each[number] for name, each in found.items()} == pytest.approx(expected), number
    assert all(each.shape == (1000,) for each in found.values())


def test_numbers_that_are_all_the_same_have_no_correlation():
    ones, proteins = np.ones(5), np.arange(5)
    assert score(NUMBERS, np.arange(5.0), ones, proteins) == {"spearman": 0.0, "mse": pytest.approx(3.0)}
    assert resample(NUMBERS, np.arange(5.0), ones, proteins)["spearman"].tolist() == [0.0] * 1000


def test_outputs_become_predictions():
    outputs = np.array([[0.1, 0.2], [3, -1]], np.float32)
    assert predictions_of(PROTEIN_CLASSES, outputs).tolist() == [1, 0]
    assert predictions_of(LABELS, outputs).tolist() == [[1, 1], [1, 0]]
    assert predictions_of(NUMBERS, outputs[:, :1]).tolist() == pytest.approx([0.1, 3])


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """Of 200 samples of 60 proteins that are right with probability 0.7, about 95 % have an interval that covers it."""
    draw, covered = np.random.default_rng(1), 0
    for _ in range(200):
        right = draw.random(60) < 0.7
        low, high = interval(
            resample(PROTEIN_CLASSES, np.zeros(60, int), 1 - right.astype(int), np.arange(60))["accuracy"]
        )
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 198


def test_means_spreads_and_what_is_better():
    assert mean_and_spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_spread([0.5]) == (0.5, 0.0)
    assert better("mse", 2.0) == -2.0
    assert better("accuracy", 2.0) == 2.0
