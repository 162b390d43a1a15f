"""What the tests of embedding a shard share: a model, a shard, and a run that nothing disturbed."""

from pathlib import Path

import pytest
from helpers import small_run as line
from helpers.embedded_shard import run
from helpers.small_run import HuggingFace, Line

LENGTHS = [*range(1, 71), *[30] * 10]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line.rough_model(tmp_path_factory.mktemp("embed") / "model")


@pytest.fixture(scope="module")
def reference(model: Path) -> HuggingFace:
    return HuggingFace(model)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """One shard of 80 sequences, 10 of them longer than the model."""
    plan = line.SplitSettings("hash", 1, 0, 0)
    folder = tmp_path_factory.mktemp("prepared")
    return line.prepare(folder, line.random_records(1, LENGTHS), {"val": 1, "test": 1, "train": 1}, plan)


@pytest.fixture(scope="module")
def shard(prepared: Line) -> Path:
    return prepared.fasta("train")


@pytest.fixture(scope="module")
def undisturbed(model: Path, shard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(shard, model, folder)
    return folder
