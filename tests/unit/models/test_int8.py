"""Embedding in 8-bit integers: the arithmetic, how far it is from float32, and what the files say of it.

Beside the Hugging Face classes: test_precision.py.
"""

import json
import os
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.dataset.part_file import part_info
from embedome.embedding.embed import make_provenance
from embedome.embedding.parts import fingerprint
from embedome.embedding.settings import EmbedSettings
from embedome.engine.engine import Engine
from embedome.engine.windows import Sequences
from embedome.models.directory import load_model
from embedome.models.encoders.int8 import Int8Linear, quantise
from helpers import small_run as line
from helpers.processes import python_command
from hypothesis import given
from hypothesis import strategies as st

SEQUENCES = [line.random_sequence(random.Random(4), length).encode() for length in (1, 2, 9, 9, 33, 61, 62, 62)]


def embed(model: Path, dtype: str, sequences: list[bytes] = SEQUENCES) -> np.ndarray:
    return Engine(load_model(model), dtype=dtype).embed(Sequences.join(sequences)).vectors["mean"].astype(np.float64)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


# Of one column torch._int_mm (2.13) computes a wrong product; no layer is that narrow.
@given(st.integers(1, 40), st.integers(2, 70), st.integers(1, 40), st.booleans(), st.floats(1e-6, 1e4))
def test_a_layer_is_the_product_of_rounded_numbers(rows: int, inner: int, outer: int, bias: bool, scale: float) -> None:
    torch.manual_seed(rows * inner + outer)
    linear = torch.nn.Linear(inner, outer, bias=bias)
    x = torch.randn(rows, inner) * scale
    with torch.inference_mode():
        found = Int8Linear(linear)(x[None]).numpy()[0]
    weights, inputs = linear.weight.detach().numpy().astype(np.float64), x.numpy().astype(np.float64)
    step_w, step_x = (np.abs(values).max(1, keepdims=True) / 127 for values in (weights, inputs))
    # Half a step of either, at the most.
    error = np.abs(inputs) @ (np.ones_like(weights) * step_w / 2).T + (step_x / 2) * np.abs(weights).sum(1)
    error += inner * step_x * step_w.T / 4
    exact = inputs @ weights.T + (linear.bias.detach().numpy() if bias else 0)
    assert (np.abs(found - exact) <= error * 1.001 + 1e-6).all()


def test_zeros_stay_zeros() -> None:
    values, scale = quantise(torch.zeros(3, 5))
    assert not values.any()
    assert torch.isfinite(scale).all()


@pytest.mark.parametrize("like", ["esm1nv", "esm2-8m", "prott5-xl"])
def test_vectors_are_near_those_of_float32(tmp_path: Path, like: str) -> None:
    model = line.rough_model(tmp_path / "model", 1, like, {"layers": 2, "hidden": 32, "heads": 4, "feed_forward": 64})
    assert cosines(embed(model, "int8"), embed(model, "float32")).min() > 0.99


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line.rough_model(tmp_path_factory.mktemp("int8") / "model")


def test_a_vector_does_not_depend_on_the_batch(model: Path) -> None:
    together = embed(model, "int8")
    alone = np.concatenate([embed(model, "int8", [sequence]) for sequence in SEQUENCES])
    assert np.abs(together - alone).max() < 2e-3


def test_files_say_how_far_off_they_are(tmp_path: Path, model: Path) -> None:
    records = [(f"p{number}", sequence.decode()) for number, sequence in enumerate(SEQUENCES)]
    made = line.prepare(tmp_path, records)
    made.embed(model, EmbedSettings(dtype="int8"))
    provenance = part_info(next(made.folder.rglob("00000-*.parquet"))).provenance
    assert provenance["dtype"] == "int8"
    deviation = provenance["int8_deviation"]
    assert 0.99 < deviation["min_cosine"] < 1
    assert 0 < deviation["max_abs"] < 1


def test_only_on_a_cpu(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedome.engine.engine.use_device", torch.device)
    with pytest.raises(UserError, match="int8, which is for CPUs"):
        Engine(load_model(model), device="cuda", dtype="int8")


REFUSED = """
from embedome.engine.engine import Engine
from embedome.common.errors import UserError
from embedome.models.directory import load_model
try:
    Engine(load_model(sys.argv[1]), dtype="int8")
except UserError as error:
    print(error)
"""


def has_vnni() -> bool:
    """Whether this processor has VNNI; elsewhere torch may not use the kernels that the variable below names."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "vnni" in cpuinfo.read_text()


def test_products_that_overflow_are_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedome.engine.engine.products_are_exact", lambda: False)
    with pytest.raises(UserError, match="has no VNNI"):
        Engine(load_model(model), dtype="int8")


@pytest.mark.skipif(not has_vnni(), reason="this processor has no VNNI that could be hidden")
def test_processors_whose_products_overflow_are_refused(model: Path) -> None:
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(python_command(REFUSED, model), capture_output=True, text=True, env=environment)
    assert "has no VNNI" in done.stdout, done.stderr


def test_shards_of_several_machines_go_together(tmp_path: Path, model: Path) -> None:
    """How far off they are differs in the last digit: no part is recomputed for it, and the worst is recorded."""
    records = [(f"p{number}", sequence.decode()) for number, sequence in enumerate(SEQUENCES * 9)]
    made = line.prepare(tmp_path, records, {"val": 1, "test": 1, "train": 2})
    made.embed(model, EmbedSettings(dtype="int8"))
    manifests = sorted(made.folder.rglob("train/*.json"))
    for path, deviation in zip(manifests, [(0.9, 0.1), (0.99, 0.2)], strict=True):
        manifest = json.loads(path.read_text())
        manifest["provenance"]["int8_deviation"] = dict(zip(("min_cosine", "max_abs"), deviation, strict=True))
        path.write_text(json.dumps(manifest))
    made.merge()
    provenance = json.loads((made.dataset / "_manifest.json").read_text())["provenance"]
    assert provenance["int8_deviation"] == {"min_cosine": 0.9, "max_abs": 0.2}
    one = {"dtype": "int8", "int8_deviation": {"min_cosine": 0.9}}
    assert fingerprint(one, []) == fingerprint({**one, "int8_deviation": {"min_cosine": 0.8}}, [])
    assert fingerprint(one, []) != fingerprint({**one, "dtype": "float32"}, [])


def test_the_deviation_is_of_sequences_that_are_embedded(model: Path) -> None:
    settings = EmbedSettings(dtype="int8", long_sequences="skip", max_residues=5)
    assert 0.9 < make_provenance(model, settings, {})["int8_deviation"]["min_cosine"] < 1
