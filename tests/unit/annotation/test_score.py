"""Scores of carried-over labels: loops over proteins, labels and thresholds, and scikit-learn, have the same result."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedome.annotation.score import Curve, Predicted, score_annotation
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

NAMES = ["a", "b", "c", "d", "e"]
SCORES = st.one_of(st.sampled_from([0.0, 0.29, 0.5, 1.0]), st.floats(0, 1, width=32))


class FakeReference:
    """What a score takes from a reference set: its labels and the held-out ones."""

    def __init__(self, lookup, truth):
        self.ids = pa.array([f"L{row}" for row in range(len(lookup))])
        self.names = pa.array(NAMES)
        self.offsets = np.cumsum([0, *map(len, lookup)])
        self.codes = np.array([NAMES.index(name) for labels in lookup for name in sorted(labels)], np.int32)
        self.namespaces, self.is_root = pa.nulls(len(NAMES), pa.string()), np.zeros(len(NAMES), bool)
        self.n_lookup = np.bincount(self.codes, minlength=len(NAMES))
        self.truth = truth

    def held_out(self):
        codes = [[NAMES.index(name) for name in sorted(labels)] for labels in self.truth.values()]
        return {"id": pa.array(list(self.truth)), "labels": pa.array(codes, pa.list_(pa.int32()))}


@st.composite
def cases(draw):
    """Labels of annotated proteins; true ones of held-out proteins; and predicted ones with scores, of some more."""
    some = st.sets(st.sampled_from(NAMES), min_size=1)
    lookup = draw(st.lists(some, min_size=1, max_size=6))
    truth = {f"P{number}": labels for number, labels in enumerate(draw(st.lists(some, min_size=1, max_size=9)))}
    names = [*truth, "Q0", "Q1"]
    predicted = {name: draw(st.dictionaries(st.sampled_from(NAMES), SCORES, max_size=4)) for name in sorted(names)}
    return lookup, truth, predicted


def write(path, predicted, group=3):
    found = []
    for name in sorted(predicted):
        ranked = sorted(predicted[name].items(), key=lambda pair: (-pair[1], pair[0]))
        found += [(name, label, score, rank) for rank, (label, score) in enumerate(ranked, 1)]
    columns = {
        name: [row[column] for row in found] for column, name in enumerate(["id", "label", "reliability", "rank"])
    }
    types = (pa.string(), pa.string(), pa.float32(), pa.int32())
    table = pa.table(columns, schema=pa.schema(list(zip(columns, types, strict=True))))
    pq.write_table(table, path, row_group_size=group)
    return path


def fmax(truth, predicted):
    """Radivojac et al. 2013, by loops; and where."""
    best = (-1.0, 0.0)
    for step in range(101):
        t = step / 100
        precisions, recalls = [], []
        for name, labels in truth.items():
            made = {label for label, score in predicted[name].items() if np.float32(score) >= np.float32(t)}
            if made:
                precisions.append(len(made & labels) / len(made))
            recalls.append(len(made & labels) / len(labels))
        precision, recall = (np.mean(precisions) if precisions else 0), np.mean(recalls)
        best = max(best, (2 * precision * recall / (precision + recall) if precision + recall else 0, t))
    return best


@given(cases())
@pytest.mark.slow
def test_scores_are_what_loops_over_proteins_give(tmp_path_factory, case):
    lookup, truth, predicted = case
    folder = tmp_path_factory.mktemp("score")
    halves = [{name: predicted[name] for name in sorted(predicted)[start::2]} for start in (0, 1)]
    files = [write(folder / f"{number}.parquet", half) for number, half in enumerate(halves)]
    found = score_annotation(FakeReference(lookup, truth), files)
    json.dumps(found)
    assert found["proteins"] == len(truth)
    assert found["with_a_label"] == sum(bool(predicted[name]) for name in truth)

    first = {name: min(predicted[name].items(), key=lambda pair: (-pair[1], pair[0]), default=None) for name in truth}
    right = [first[name] is not None and first[name][0] in truth[name] for name in truth]
    assert found["accuracy"]["carried_over"] == pytest.approx(np.mean(right), abs=1e-6)
    value, threshold = fmax(truth, predicted)
    assert found["fmax"]["carried_over"]["fmax"] == pytest.approx(value, abs=1e-6)
    if value:
        at = found["fmax"]["carried_over"]["threshold"]
        assert at == threshold or fmax(truth, predicted)[0] == pytest.approx(value)

    counts = {name: sum(name in labels for labels in lookup) for name in NAMES}
    commonest = min(NAMES, key=lambda name: (-counts[name], name))
    baseline = np.mean([commonest in labels for labels in truth.values()])
    assert found["accuracy"]["commonest_label"] == pytest.approx(baseline, abs=1e-6)
    chances = [np.mean([len(mine & labels) / len(labels) for labels in lookup]) for mine in truth.values()]
    assert found["accuracy"]["random_neighbour"] == pytest.approx(np.mean(chances), abs=1e-6)
    naive = {name: counts[name] / len(lookup) for name in NAMES if counts[name]}
    value, _ = fmax(truth, dict.fromkeys(truth, naive))
    assert found["fmax"]["commonest_label"]["fmax"] == pytest.approx(value, abs=1e-6)

    pairs = [(score, label in truth[name]) for name in truth for label, score in predicted[name].items()]
    for row in found["labels_by_reliability"]:
        mine = [ok for score, ok in pairs if min(int(np.float32(score) * np.float32(10)), 9) == round(row["from"] * 10)]
        assert (row["labels"], row["right"]) == (len(mine), sum(mine))
    assert sum(row["labels"] for row in found["labels_by_reliability"]) == len(pairs)
    assert sum(row["right"] for row in found["first_label_by_reliability"]) == sum(right)


def test_accuracy_of_single_labels_is_scikit_learns(tmp_path):
    rng = np.random.default_rng(0)
    truth, guess = (rng.choice(NAMES, 200).tolist() for _ in range(2))
    names = [f"P{number:03d}" for number in range(200)]
    path = write(tmp_path / "x.parquet", {name: {label: 0.5} for name, label in zip(names, guess, strict=True)}, 64)
    held_out = {name: {label} for name, label in zip(names, truth, strict=True)}
    lookup = [{name} for name in rng.choice(NAMES, 500)]
    found = score_annotation(FakeReference(lookup, held_out), [path])
    assert found["one_label_each"]
    assert found["accuracy"]["carried_over"] == accuracy_score(truth, guess)
    # One label each, all scored alike: precision, recall and so F are the accuracy.
    assert found["fmax"]["carried_over"]["fmax"] == pytest.approx(accuracy_score(truth, guess))
    # A random neighbour's Fmax is drawn, its accuracy worked out: they agree within four standard errors.
    drawn, expected = found["fmax"]["random_neighbour"]["fmax"], found["accuracy"]["random_neighbour"]
    assert abs(drawn - expected) < 4 * np.sqrt(expected * (1 - expected) / 200)


def test_without_held_out_labels_there_is_no_score(tmp_path):
    assert score_annotation(FakeReference([{"a"}], {}), [write(tmp_path / "x.parquet", {})]) is None


def test_a_curve_added_up_from_blocks_is_that_of_the_whole():
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 5, 50)
    protein = np.sort(rng.integers(0, 50, 300))
    score, right = rng.random(300, np.float32), rng.random(300) < 0.01
    whole, pieces = Curve(sizes), Curve(sizes)
    whole.add(Predicted(protein, score, right))
    for low, high in ((0, 20), (20, 21), (21, 50)):
        mine = (protein >= low) & (protein < high)
        pieces.add(Predicted(protein[mine], score[mine], right[mine]))
    assert whole.fmax() == pieces.fmax()
