"""A model, a task and its files in; an adapter, a merged model and scores out, once; nobody else's are replaced."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256
from embedome.evaluation import finetune as module
from embedome.evaluation.evaluate import evaluate
from embedome.evaluation.finetune import FinetuneSettings, finetune
from embedome.evaluation.head_recipes import RECIPES
from embedome.evaluation.heads import make_head
from embedome.evaluation.settings import EvaluateSettings
from embedome.evaluation.tuned import TuneSettings
from embedome.models.adapters import AdapterSettings
from embedome.models.create import make_untrained
from embedome.models.directory import load_model, model_identity
from helpers.made_tasks import write_flip_pairs
from safetensors.torch import load_file

SIZES = {"layers": 2, "hidden": 16, "heads": 2, "feed_forward": 24, "positions": 40}
SETTINGS = FinetuneSettings(tune=TuneSettings(AdapterSettings(4, 8, 0.1), rate=0.02, epochs=2, batch=8))
TASK = "secondary_structure"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    make_untrained(folder, "small", "esm1nv", SIZES, 3)
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_flip_pairs(tmp_path_factory.mktemp("task") / "data")


@pytest.fixture(scope="module")
def done(model, task, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, finetune(model, TASK, [task], out, settings=SETTINGS)


def files(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def predict(out, sequence):
    """By the merged model and the head's weights as they are on disk."""
    about = json.loads((out / "adapter/head.json").read_text())
    head = make_head(RECIPES[about["head"]["name"]], about["dimension"], len(about["labels"]), about["level"]).eval()
    head.load_state_dict(load_file(out / "adapter/head.safetensors"))
    merged = load_model(out / "model")
    tokens = torch.from_numpy(merged.tokenizer.tokens(np.frombuffer(sequence.encode(), np.uint8)[None]))
    with torch.inference_mode():
        features = merged.encoder(tokens)[:, 1:-1]
        padded = torch.nn.functional.pad(features, (0, 0, 0, head.edge))
        outputs = head(padded, torch.tensor([len(sequence)]))[0, : len(sequence)]
    return "".join(about["labels"][place] for place in outputs.argmax(-1).tolist())


def test_merged_model_and_head_predict_what_was_scored(done, task):
    out, result = done
    text = (task / "sequences.fasta").read_text().split()
    rows, right, counted = pq.read_table(next(out.glob("*.parquet"))).to_pylist(), 0, 0
    assert len(rows) == 10
    for row in rows:
        sequence = text[text.index(f">{row['id']}") + 1]
        assert predict(out, sequence) == row["prediction"]
        pairs = [pair for pair in zip(row["prediction"], row["target"], strict=True) if pair[1] != "-"]
        right, counted = right + sum(mine == true for mine, true in pairs), counted + len(pairs)
    assert result["test"]["accuracy"] == pytest.approx(right / counted, abs=1e-5)


def test_the_model_says_what_it_was_made_of(done, model, task):
    out, _ = done
    found = model_identity(out / "model")
    assert found["trained"] is True
    assert found["adapter"]["base"] == model_identity(model)
    assert found["adapter"]["task"] == TASK
    assert found["adapter"]["proteins"] == {"train": 30, "val": 8, "test": 10}
    assert found["adapter"]["data"] == sorted(file_sha256(path) for path in task.iterdir())
    assert not list(out.glob("*.pt"))


def test_a_second_run_has_nothing_to_do_and_another_is_refused(done, model, task, monkeypatch):
    out, result = done
    before = files(out)
    monkeypatch.setattr(module, "train", None)
    assert finetune(model, TASK, [task], out, settings=SETTINGS) == result
    with pytest.raises(UserError, match="a run with another seed"):
        finetune(model, TASK, [task], out, settings=replace(SETTINGS, seed=1))
    with pytest.raises(UserError, match="a run with another recipe"):
        finetune(model, TASK, [task], out, settings=replace(SETTINGS, tune=TuneSettings()))
    assert files(out) == before


class KilledError(Exception):
    """In the place of SIGKILL."""


@pytest.mark.parametrize("before", ["do_run", "write_adapter", "write_head", "merge_adapter", "write_json"])
def test_killed_anywhere_and_run_again_gives_the_same_bytes(done, model, task, before, tmp_path, monkeypatch):
    name, calls = getattr(module, before), []

    def die(*given, **others):
        calls.append(given)
        if before == "write_json" and len(calls) == 1:
            return name(*given, **others)
        raise KilledError

    out = tmp_path / "whole"
    with monkeypatch.context() as patched:
        patched.setattr(module, before, die)
        with pytest.raises(KilledError):
            finetune(model, TASK, [task], out, settings=SETTINGS)
    finetune(model, TASK, [task], out, settings=SETTINGS)
    assert files(out) == files(done[0])


def test_a_folder_of_others_is_never_touched(model, task, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UserError, match="is there already"):
        finetune(model, TASK, [task], tmp_path, settings=SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_head_that_is_solved_is_refused(model, task, tmp_path):
    with pytest.raises(UserError, match="--head ridge is none that a model is trained with"):
        finetune(model, TASK, [task], tmp_path / "out", settings=replace(SETTINGS, head="ridge"))


def test_the_method_lora_stands_beside_frozen_features(model, task, tmp_path):
    out = tmp_path / "out"
    settings = EvaluateSettings(methods=("frozen", "lora"), seeds=2)
    found = evaluate(TASK, [task], out, model=model, settings=settings)
    assert list(found) == ["frozen", "lora"]
    about = json.loads((out / "small" / TASK / "lora.json").read_text())
    [scored] = about["results"]
    assert (scored["head"], scored["layer"], len(scored["runs"])) == ("convolutions", 2, 2)
    assert about["model"] == model_identity(model)
    table = pq.read_table(out / "table.parquet").to_pylist()
    assert {row["method"] for row in table} == {"frozen", "lora", "published"}
    before = files(out)
    evaluate(TASK, [task], out, model=model, settings=settings)
    assert files(out) == before
