"""Options that all commands share: on what a model runs, and in which arithmetic."""

import argparse
from pathlib import Path

import pytest
import torch
from embedome.cli.main import main
from embedome.cli.options import add_engine_options, add_machine_options, choose_device, choose_dtype
from embedome.embedding import single_file
from embedome.embedding.part_pipeline import Machine
from embedome.engine import device
from helpers.fake_cuda import FakeCuda
from helpers.small_run import rough_model


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    return parser.parse_args(["-m", "model", *arguments])


@pytest.mark.parametrize(
    ("capability", "arguments", "device", "dtype"),
    [
        ((9, 0), [], "cuda", "bfloat16"),
        ((8, 0), [], "cuda", "bfloat16"),
        ((7, 5), [], "cuda", "float32"),
        ((9, 0), ["--dtype", "float32"], "cuda", "float32"),
        ((9, 0), ["--device", "cpu"], "cpu", "float32"),
    ],
)
def test_the_fastest_arithmetic_that_is_safe_is_taken(
    capability: tuple[int, int], arguments: list[str], device: str, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    given = options(*arguments)
    with FakeCuda(capability=capability).entered():
        assert choose_device(given) == device
        assert choose_dtype(given, device) == dtype
    assert ("vectors are made in it" in caplog.text) == (dtype == "bfloat16")


@pytest.mark.parametrize(("arguments", "workers"), [([], 3), (["--workers", "2"], 2)])
def test_each_visible_gpu_has_a_process_and_the_command_itself_claims_none(
    arguments: list[str],
    workers: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given: list[Machine] = []
    for name, replacement in {
        "is_available": lambda: True,
        "device_count": lambda: 3,
        "get_device_capability": lambda device: (9, 0),
    }.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    monkeypatch.setattr(device, "claim_gpu", None)
    monkeypatch.setattr(single_file, "embed_fasta", lambda *_, machine, **__: given.append(machine) or {})
    model = rough_model(tmp_path / "model")
    (tmp_path / "in.fasta").write_text(">a\nMKV\n")
    main(["embed", f"{tmp_path}/in.fasta", "-m", str(model), "-o", f"{tmp_path}/out.parquet", *arguments])
    assert [(machine.device, machine.workers) for machine in given] == [("cuda", workers)]
    assert ("3 GPUs are visible" in capsys.readouterr().err) == (not arguments)


def test_commands_that_give_likelihoods_stay_in_float32() -> None:
    parser = argparse.ArgumentParser()
    add_machine_options(parser)
    assert parser.parse_args(["-m", "model"]).dtype == "float32"
