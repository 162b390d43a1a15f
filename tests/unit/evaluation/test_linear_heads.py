"""The small heads: scikit-learn's own classes on all vectors at once give the same."""

import numpy as np
import pytest
from embedome.evaluation import head_data
from embedome.evaluation.examples import Labelling
from embedome.evaluation.head_data import HeadData
from embedome.evaluation.linear_heads import RIDGE_PENALTIES, LogisticFit, RidgeFit
from embedome.evaluation.metrics import better
from embedome.evaluation.runs import scores_of
from helpers.made_tasks import example_set, random_features
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.preprocessing import StandardScaler

RESIDUES = Labelling("residue", "classes", tuple("CEH"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(head_data, "BLOCK_LABELS", 50)


def data_of(labelling):
    examples = example_set(labelling)
    return HeadData(random_features(examples, labelling.level), examples)


def fit(kind, data, metric):
    trained, val = kind(data, 0), data.of_split("val")
    trained.fit(lambda outputs: better(metric, scores_of(data, val, outputs)[metric]))
    return trained


def all_at_once(data, split):
    """Every vector with a label that counts, scaled by train, and the labels."""
    parts = {name: list(data.vectors(data.of_split(name))) for name in ("train", split)}
    scaler = StandardScaler().fit(np.concatenate([vectors for vectors, _ in parts["train"]]).astype(np.float64))
    vectors = scaler.transform(np.concatenate([vectors for vectors, _ in parts[split]]).astype(np.float64))
    return vectors, np.concatenate([targets for _, targets in parts[split]])


def counted(data, outputs, split):
    return outputs[data.targets(data.of_split(split))[1]]


@pytest.mark.parametrize("level", ["residue", "protein"])
def test_ridge_regression_of_numbers_is_scikit_learns(level):
    data = data_of(Labelling(level, "numbers"))
    trained = fit(RidgeFit, data, "mse")
    vectors, targets = all_at_once(data, "train")
    assert trained.penalty in RIDGE_PENALTIES
    reference = Ridge(alpha=trained.penalty * len(vectors)).fit(vectors, targets)
    expected = reference.predict(all_at_once(data, "test")[0])
    assert np.allclose(counted(data, trained.predict(data.of_split("test")), "test")[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("labelling", [RESIDUES, Labelling("protein", "classes")], ids=["residue", "protein"])
def test_ridge_regression_of_classes_is_scikit_learns_classifier(labelling):
    data = data_of(labelling)
    trained = fit(RidgeFit, data, "accuracy")
    vectors, targets = all_at_once(data, "train")
    reference = RidgeClassifier(alpha=trained.penalty * len(vectors)).fit(vectors, targets)
    expected = reference.decision_function(all_at_once(data, "test")[0])
    assert np.allclose(counted(data, trained.predict(data.of_split("test")), "test"), expected, atol=1e-4)


def test_the_penalty_is_the_best_on_validation():
    data = data_of(Labelling("residue", "numbers"))
    trained = fit(RidgeFit, data, "mse")
    vectors, targets = all_at_once(data, "train")
    val, truth = all_at_once(data, "val")
    errors = {
        each: np.mean((Ridge(alpha=each * len(vectors)).fit(vectors, targets).predict(val) - truth) ** 2)
        for each in RIDGE_PENALTIES
    }
    assert errors[trained.penalty] == pytest.approx(min(errors.values()), rel=1e-4)


@pytest.mark.parametrize("classes", [3, 2])
def test_logistic_regression_of_proteins_is_scikit_learns(classes):
    data = data_of(Labelling("protein", "classes"))
    if classes == 2:
        data.examples.targets[:] = np.minimum(1, data.examples.targets)
        data = HeadData(data.features, example_with_names(data.examples, ("x", "y")))
    trained = fit(LogisticFit, data, "accuracy")
    vectors, targets = all_at_once(data, "train")
    reference = LogisticRegression(C=1 / trained.penalty, max_iter=1000).fit(vectors, targets)
    found = trained.predict(data.of_split("test"))
    assert found.shape[1] == classes
    assert np.array_equal(found.argmax(1), reference.predict(all_at_once(data, "test")[0]))


def example_with_names(examples, names):
    from dataclasses import replace

    return replace(examples, labelling=replace(examples.labelling, classes=names))


def test_a_class_without_train_protein_is_never_predicted():
    data = data_of(Labelling("protein", "classes"))
    train = data.of_split("train")
    data.examples.targets[train] = np.where(data.examples.targets[train] == 2, 1, data.examples.targets[train])
    trained = fit(LogisticFit, data, "accuracy")
    found = trained.predict(data.of_split("test"))
    assert found.shape[1] == 3
    assert 2 not in found.argmax(1)


@pytest.mark.parametrize(
    "labelling", [RESIDUES, Labelling("residue", "labels"), Labelling("protein", "labels")], ids=str
)
def test_logistic_regression_by_steps_learns_and_is_the_same_each_time(labelling):
    data = data_of(labelling)
    metric = "accuracy"
    first, again = (fit(LogisticFit, data, metric) for _ in range(2))
    test = data.of_split("test")
    assert np.array_equal(first.predict(test), again.predict(test))
    assert first.epochs == 5
    truth, mask = data.targets(data.of_split("train"))
    found = scores_of(data, data.of_split("train"), first.predict(data.of_split("train")))[metric]
    if labelling.kind == "classes":
        assert found > np.bincount(truth[mask]).max() / mask.sum() + 0.2
    else:
        assert found > max(truth[mask].mean(), 1 - truth[mask].mean()) + 0.05
