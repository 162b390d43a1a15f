"""What the tests of ESM-2 and T5 share: a small model of each."""

from pathlib import Path

import pytest
from helpers.rough_encoders import make_esm2, make_t5


@pytest.fixture
def esm2(tmp_path: Path) -> Path:
    return make_esm2(tmp_path / "esm2")


@pytest.fixture
def t5(tmp_path: Path) -> Path:
    return make_t5(tmp_path / "t5", feed_forward_proj="gated-silu")
