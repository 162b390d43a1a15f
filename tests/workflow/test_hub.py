"""The model fetched by the workflow from a Hub on this machine; embedded by two of its layers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from embedome.dataset import open_dataset
from helpers.hub_server import Hub, Repository, commit, files_of, serve_hub
from helpers.small_run import rough_model
from helpers.workflow_runs import SMALL, changed, run

FOLDER = "models/fetched"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with serve_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        server.repositories["lab/esm1nv"] = Repository()
        server.repositories["lab/esm1nv"].push(files_of(rough_model(tmp_path / "first" / "model")))
        yield server


def config(revision: str | None = None) -> dict:
    asked = {"id": "lab/esm1nv", "revision": revision}
    return changed(SMALL, model={"directory": FOLDER, "untrained": None, "hub": asked}, embed={"layer": [1, -1]})


@pytest.mark.slow
def test_fetched_before_embed_and_again_for_another_revision(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = run(folder, config(), "--until", "merge")
    assert result.returncode == 0, result.stdout
    data = open_dataset(folder / "results/dataset/esm1nv-demo")
    provenance = data.manifest["provenance"]
    assert provenance["model"]["hub"] == {"id": "lab/esm1nv", "revision": commit("first")}
    assert (provenance["layer"], data.poolings) == ([1, 2], ["layer_1_mean", "layer_2_mean"])
    ids, first = next(data.matrix("val"))
    assert not np.array_equal(first, data.get(ids, pooling="layer_2_mean"))
    hub.requests.clear()
    manifest = folder / "results/dataset/esm1nv-demo/_manifest.json"
    before = manifest.stat().st_mtime_ns
    assert run(folder, config(), "--until", "merge").returncode == 0
    assert manifest.stat().st_mtime_ns == before
    assert not hub.requests
    newer = files_of(rough_model(tmp_path / "second" / "model", seed=2))
    tagged = hub.repositories["lab/esm1nv"].push(newer, "second", branch="v2")
    result = run(folder, config("v2"), "--until", "merge")
    assert result.returncode == 0, result.stdout
    data = open_dataset(folder / "results/dataset/esm1nv-demo")
    assert data.manifest["provenance"]["model"]["hub"]["revision"] == tagged
    assert (folder / FOLDER / "model.safetensors").read_bytes() == newer["model.safetensors"]


@pytest.mark.slow
def test_a_model_that_is_there_is_left_alone(hub: Hub, tmp_path: Path) -> None:
    own = rough_model(tmp_path / "run" / FOLDER)
    before = files_of(own)
    result = run(tmp_path / "run", config(), "--until", "fetch_model")
    assert result.returncode != 0
    assert "models/fetched: holds 'config.json', which embedome did not make; name a directory that is" in result.stdout
    assert "model.hub: null uses what is there" in result.stdout
    assert files_of(own) == before
    assert not hub.requests


def test_an_absent_model_stops_the_run_in_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.repositories.clear()
    result = run(tmp_path / "run", config(), "--until", "fetch_model")
    assert result.returncode != 0
    log = (tmp_path / "run/results/logs/fetch_model.log").read_text().splitlines()
    assert [line for line in log if "ERROR" in line] == log[-1:]
    assert "lab/esm1nv: no such model on http://127.0.0.1" in log[-1]
    assert not (tmp_path / "run" / FOLDER).exists() or not list((tmp_path / "run" / FOLDER).iterdir())
