"""Options that all commands share: on what a model runs, and in which arithmetic."""

import argparse

import pytest
from embedome.cli.options import add_engine_options, add_machine_options, choose_device, choose_dtype
from helpers.fake_cuda import FakeCuda


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


def test_commands_that_give_likelihoods_stay_in_float32() -> None:
    parser = argparse.ArgumentParser()
    add_machine_options(parser)
    assert parser.parse_args(["-m", "model"]).dtype == "float32"
