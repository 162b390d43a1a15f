"""Each arithmetic is measured, and the fastest named whose vectors are right, by those of the Hugging Face class."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.embedding import dtype_benchmark
from embedome.embedding.deviation import sample_sequences
from embedome.embedding.dtype_benchmark import MeasuredDtype, bench_dtypes, find_fastest
from embedome.embedding.length_histogram import Lengths
from embedome.engine.engine import Engine
from embedome.models.directory import load_model
from embedome.models.encoders.int8 import products_are_exact
from helpers.fake_cuda import FakeCuda
from helpers.small_run import MAX_RESIDUES, HuggingFace, rough_model
from safetensors.torch import load_file, save_file

LENGTHS = Lengths(np.array([20, 40]), np.array([1, 1]))
SIZES = {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 32}
# Residues per second of a processor of our own.
SPEED = {torch.float32: 1.0, torch.bfloat16: 100.0}


def no_time(engine: Any, lengths: Lengths, seconds: float) -> dict[str, Any]:
    """In the place of `bench`: rates, without measuring."""
    return {"distribution": {"residues_per_second": SPEED.get(engine.dtype, 10.0)}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rough_model(tmp_path_factory.mktemp("dtypes") / "model")


def measured(dtype: str, speed: float, cosine: float, bound: float = 0.99) -> MeasuredDtype:
    return MeasuredDtype(dtype, {"distribution": {"residues_per_second": speed}}, 1, cosine, bound)


# Which is named


@pytest.mark.parametrize(
    ("cosines", "name"),
    [
        ({"float32": 1.0, "bfloat16": 0.995, "int8": 0.992}, "int8"),
        ({"float32": 1.0, "bfloat16": 0.995, "int8": 0.98}, "bfloat16"),
        ({"float32": 1.0, "bfloat16": float("nan"), "int8": 0.98}, "float32"),
    ],
)
def test_the_fastest_within_the_tolerance_is_named(cosines: dict[str, float], name: str) -> None:
    speeds = {"float32": 1.0, "bfloat16": 2.0, "int8": 3.0}
    assert find_fastest([measured(dtype, speeds[dtype], cosine) for dtype, cosine in cosines.items()]).dtype == name


def test_without_any_right_vector_none_is_named() -> None:
    with pytest.raises(UserError, match="in no dtype"):
        find_fastest([measured("float32", 1.0, float("nan"))])


# Measured


def test_vectors_are_compared_with_the_hugging_face_classes(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtype_benchmark, "bench", no_time)
    found, refused = bench_dtypes(model, "cpu", LENGTHS, 1.0)
    assert [each.dtype for each in found] == ["float32", "bfloat16", *(["int8"] if products_are_exact() else [])]
    assert set(refused) == {"int8"} - {each.dtype for each in found}
    sequences, reference = sample_sequences(MAX_RESIDUES), HuggingFace(model)
    texts = [
        sequences.residues[begin:end].tobytes().decode()
        for begin, end in zip(sequences.offsets, sequences.offsets[1:], strict=False)
    ]
    exact = torch.tensor(np.stack([reference.vector(text) for text in texts]), dtype=torch.float64)
    for each in found:
        vectors = Engine(load_model(model), dtype=each.dtype).embed(sequences).vectors["mean"]
        cosine = torch.cosine_similarity(exact, torch.from_numpy(vectors).double(), dim=1).min().item()
        assert each.cosine == pytest.approx(cosine, abs=1e-6)
        assert each.bound == {"float32": 0.9999999, "bfloat16": 0.9997, "int8": 0.998}[each.dtype]


def test_what_is_fast_and_wrong_is_not_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large number that every norm takes away again leaves bfloat16 no digits for the rest."""
    monkeypatch.setattr(dtype_benchmark, "bench", no_time)
    assert find_fastest(bench_dtypes(model, "cpu", LENGTHS, 1.0)[0]).dtype == "bfloat16"
    other = rough_model(tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["bert.embeddings.position_embeddings.weight"] += 1000
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    found, _ = bench_dtypes(other, "cpu", LENGTHS, 1.0)
    assert [each.within for each in found if each.dtype != "int8"] == [True, False]
    assert find_fastest(found).dtype != "bfloat16"


@pytest.mark.slow
def test_speeds_are_measured(model: Path) -> None:
    found, _ = bench_dtypes(model, "cpu", LENGTHS, 0.2)
    assert all(each.speed > 0 and each.found["cost"]["longest"] == MAX_RESIDUES for each in found)
    assert {each.token_budget for each in found} == {4096}


def stub_engine(_: Any, **options: Any) -> SimpleNamespace:
    vectors = {"mean": np.ones((3, 2), np.float16)}
    embed: Callable[[Any], SimpleNamespace] = lambda _: SimpleNamespace(vectors=vectors)  # noqa: E731
    return SimpleNamespace(embed=embed, max_residues=60, token_budget=1, dtype=options["dtype"])


@pytest.mark.parametrize(
    ("like", "capability", "taken"),
    [
        ("esm1nv", (9, 0), ["float32", "bfloat16", "float16"]),
        ("esm1nv", (7, 5), ["float32", "float16"]),
        ("ankh-base", (9, 0), ["float32", "bfloat16"]),
        ("ankh-base", (7, 5), ["float32"]),
    ],
)
def test_what_a_gpu_or_a_model_does_not_take_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, like: str, capability: tuple[int, int], taken: list[str]
) -> None:
    folder = rough_model(tmp_path / "model", 1, like, SIZES)
    monkeypatch.setattr(dtype_benchmark, "bench", no_time)
    monkeypatch.setattr(dtype_benchmark, "load_model", lambda directory: None)
    monkeypatch.setattr(dtype_benchmark, "Engine", stub_engine)
    with FakeCuda(capability=capability).entered():
        found, refused = bench_dtypes(folder, "cuda", LENGTHS, 1.0)
    assert [each.dtype for each in found] == taken
    assert set(refused) == {"float32", "bfloat16", "float16"} - set(taken)
    assert all(f"embed.dtype is {dtype}" in reason for dtype, reason in refused.items())
