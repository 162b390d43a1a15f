"""How like test proteins are what the model was pretrained on: counts known by construction, in result and table."""

import json
import random
import shutil
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from embedome.common.errors import UserError
from embedome.evaluation import likeness
from embedome.evaluation.evaluate import evaluate, evaluate_for_run
from embedome.evaluation.settings import EvaluateSettings
from embedome.training.store import open_store
from helpers.relatives import AMINO_ACIDS, needs_mmseqs
from helpers.stores import random_sequences, store_of
from helpers.training_runs import train_in

SETTINGS = EvaluateSettings(heads=("ridge",), methods=("frozen",))
# Of ten residues, how many each test protein has in common with a train protein of pretraining, place by place.
IN_COMMON = (10, 10, 9, 7, 5, None, None, None)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A folder as `embedome pretrain` leaves it: data, and a model that was trained on them for some steps."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    store_of(folder / "data" / "train", random_sequences(60, 1, shortest=90))
    store_of(folder / "data" / "val", random_sequences(10, 2))
    train_in(folder / "data", folder, steps=2)
    return folder


@pytest.fixture
def task(pretrained, tmp_path):
    """A task of one's own; the first test protein stands there twice, so that seven are distinct."""
    draw, known = random.Random(3), list(likeness.texts(open_store(pretrained / "data" / "train")))
    test = [changed(draw, known[number or 1], in_common) for number, in_common in enumerate(IN_COMMON)]
    proteins = {f"test{number}": each for number, each in enumerate(test)}
    proteins |= {f"train{number}": each for number, each in enumerate(random_sequences(12, 5))}
    (tmp_path / "own.fasta").write_text("".join(f">{name}\n{each}\n" for name, each in proteins.items()))
    rows = [f"{name}\t{name.rstrip('0123456789')}\t{'xy'[int(name[-1]) % 2]}" for name in proteins]
    (tmp_path / "own.tsv").write_text("\n".join(["id\tsplit\tclass", *rows, ""]))
    return [tmp_path / "own.fasta", tmp_path / "own.tsv"]


def changed(draw, sequence, in_common):
    """A sequence of which of every ten residues as many are the same; None: one at random."""
    if in_common is None:
        return "".join(draw.choices(AMINO_ACIDS, k=len(sequence)))
    places = set(draw.sample(range(10), 10 - in_common))
    others = {each: draw.choice(AMINO_ACIDS.replace(each, "")) for each in AMINO_ACIDS}
    return "".join(others[each] if number % 10 in places else each for number, each in enumerate(sequence))


def likeness_in(out, method="frozen", model="run"):
    return json.loads((out / model / "own" / f"{method}.json").read_text())["likeness"]


@needs_mmseqs
def test_relatives_of_test_proteins_stand_beside_the_score(pretrained, task, tmp_path):
    out = tmp_path / "out"
    evaluate("own", task, out, model=pretrained / "model", settings=replace(SETTINGS, methods=("frozen", "random")))
    found = likeness_in(out)
    assert found["train"]["sequences"] == 60
    assert found["train"]["sha256"] == open_store(pretrained / "data" / "train").sha256
    assert found["test"]["sequences"] == 7
    at_least = {each["identity"]: each["sequences"] for each in found["test"]["thresholds"]}
    assert [at_least[identity] for identity in (0.3, 0.6, 0.8, 1.0)] == [4, 3, 2, 1]
    assert found["test"]["without_hit"] == 3
    # Random weights have seen nothing.
    assert likeness_in(out, "random") is None
    rows = pq.read_table(out / "table.parquet").to_pylist()
    assert {row["method"]: row["like_pretraining"] for row in rows} == {"frozen": pytest.approx(4 / 7), "random": None}


@needs_mmseqs
def test_a_search_is_made_once_for_the_same_proteins(pretrained, task, tmp_path, monkeypatch):
    done = []
    real = likeness.measure_leakage
    monkeypatch.setattr(likeness, "measure_leakage", lambda *given, **named: done.append(1) or real(*given, **named))
    for seeds in (1, 2):
        evaluate("own", task, tmp_path, model=pretrained / "model", settings=replace(SETTINGS, seeds=seeds))
    assert len(done) == 1


@needs_mmseqs
def test_a_job_of_the_workflow_finds_the_sequences_in_the_folder_of_the_run(pretrained, task, tmp_path):
    model = shutil.copytree(pretrained / "model", tmp_path / "resources" / "models" / "small")
    summary = tmp_path / "results" / "small" / "own.json"
    evaluate_for_run("own", task, model, summary, settings=SETTINGS, pretraining=pretrained)
    assert likeness_in(tmp_path / "results", model="small")["test"]["without_hit"] == 3


def test_why_nothing_is_known_is_said(pretrained, task, tmp_path, monkeypatch):
    out = tmp_path / "out"
    alone = shutil.copytree(pretrained / "model", tmp_path / "alone" / "model")
    evaluate("own", task, out, model=alone, settings=SETTINGS)
    assert likeness_in(out, model="alone")["unknown"].endswith(
        "data/train is missing, or not what the model was pretrained on"
    )
    store_of(tmp_path / "alone" / "data" / "train", random_sequences(60, 4, shortest=90))
    (out / "alone" / "own" / "frozen.json").unlink()
    evaluate("own", task, out, model=alone, settings=SETTINGS)
    assert "not what the model was pretrained on" in likeness_in(out, model="alone")["unknown"]
    assert {row["like_pretraining"] for row in pq.read_table(out / "table.parquet").to_pylist()} == {None}

    def missing(*given):
        raise UserError("MMseqs2 is not installed")

    monkeypatch.setattr(likeness, "Mmseqs", missing)
    evaluate("own", task, out, model=pretrained / "model", settings=SETTINGS)
    assert likeness_in(out) == {"unknown": "MMseqs2 is not installed"}
