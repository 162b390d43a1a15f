"""`embedome bench`: each dtype beside the others, or one that is named."""

import json
import re
from pathlib import Path

import pytest
from embedome.cli.main import main
from embedome.models.encoders.int8 import products_are_exact
from helpers.small_run import rough_model

COMPARED = r"^ +(float32|bfloat16|int8) +([\d,]+) +([\d.]+)x +([\d.]+) +([\d.]+)(  not within it)?$"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rough_model(tmp_path_factory.mktemp("bench") / "model")


def benched(capsys: pytest.CaptureFixture[str], model: Path, out: Path, *options: str) -> tuple[str, dict]:
    main(["bench", "-m", str(model), "-o", str(out), "--seconds", "0.3", "--device", "cpu", *options])
    return capsys.readouterr().out, json.loads(out.read_text())


@pytest.mark.slow
def test_the_fastest_dtype_within_the_tolerance_is_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, kept = benched(capsys, model, tmp_path / "bench.json")
    rows = {row[0]: row[1:] for row in re.findall(COMPARED, shown, re.MULTILINE)}
    assert list(rows) == ["float32", "bfloat16", *(["int8"] if products_are_exact() else [])]
    assert list(kept["dtypes"]) == list(rows)
    for dtype, (speed, ratio, cosine, bound, outside) in rows.items():
        about = kept["dtypes"][dtype]
        assert float(speed.replace(",", "")) == pytest.approx(about["residues_per_second"], abs=1)
        base = kept["dtypes"]["float32"]["residues_per_second"]
        assert float(ratio) == pytest.approx(about["residues_per_second"] / base, abs=0.01)
        assert (float(cosine), float(bound)) == pytest.approx((about["min_cosine"], about["tolerance"]), abs=1e-7)
        assert bool(outside) == (about["min_cosine"] < about["tolerance"])
    within = {dtype: each for dtype, each in kept["dtypes"].items() if each["min_cosine"] >= each["tolerance"]}
    fastest = max(within, key=lambda dtype: within[dtype]["residues_per_second"])
    assert f"the fastest within the tolerance: {fastest}\n" in shown
    # The rest of the file, and what is printed last, is of that one.
    assert kept["dtype"] == fastest
    assert kept["distribution"]["residues_per_second"] == kept["dtypes"][fastest]["residues_per_second"]
    assert f"linear: {kept['cost']['linear']:.3e}" in shown


@pytest.mark.slow
def test_a_dtype_that_is_named_is_measured_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, kept = benched(capsys, model, tmp_path / "bench.json", "--dtype", "bfloat16")
    assert "float32" not in shown
    assert "the fastest" not in shown
    assert re.search(r"^rough on cpu, one thread, bfloat16, torch ", shown)
    assert kept["dtype"] == "bfloat16"
    assert "dtypes" not in kept
    assert set(kept["by_length"]) == {"32"}


@pytest.mark.slow
def test_a_dtype_that_cannot_be_is_said_with_the_reason(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedome.engine.engine.products_are_exact", lambda: False)
    shown, kept = benched(capsys, model, tmp_path / "bench.json")
    assert re.search(r"^ +int8  not measured: embed.dtype is int8, but .+ has no VNNI", shown, re.MULTILINE)
    assert list(kept["dtypes"]) == ["float32", "bfloat16"]
