"""What the tests of merging share: models, and lines of records that are embedded and merged."""

from pathlib import Path

import pytest
from embedome.embedding.settings import EmbedSettings
from helpers import small_run as line
from helpers.merged_records import PLAN, RECORDS, SHARDS
from helpers.small_run import HuggingFace, Line


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line.rough_model(tmp_path_factory.mktemp("merge") / "model")


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line.rough_model(tmp_path_factory.mktemp("merge") / "model", seed=2)


@pytest.fixture(scope="module")
def reference(model: Path) -> HuggingFace:
    return HuggingFace(model)


@pytest.fixture(scope="module")
def merged(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A line that has been run to its end; read only."""
    made = line.prepare(tmp_path_factory.mktemp("merged") / "line", RECORDS, SHARDS, PLAN)
    made.embed(model)
    made.merge()
    return made


@pytest.fixture
def own(merged: Line, tmp_path: Path) -> Line:
    """A copy of it."""
    return merged.copy(tmp_path / "line")


@pytest.fixture(scope="module")
def rich(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A line with two vectors a row and per-residue embeddings; read only."""
    made = line.prepare(tmp_path_factory.mktemp("rich") / "line", RECORDS, SHARDS, PLAN)
    made.embed(model, EmbedSettings(pooling=("mean", "max"), per_residue=True))
    made.merge()
    return made
