"""Fused passes: the same hidden states but for rounding, compiled once for all layers, lengths and batches."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from embedome.common.errors import UserError
from embedome.engine import engine as engine_module
from embedome.engine.engine import Engine, check_close
from embedome.engine.windows import Sequences
from embedome.models.directory import load_model
from embedome.models.encoders import fused
from embedome.models.encoders.fused import TanhGeluLinear, fuse_passes
from helpers.fake_cuda import FakeCuda
from helpers.saved_models import KINDS, make
from torch import Tensor, nn
from torch._dynamo.utils import counters

ARCHITECTURES = (
    "esm",
    "esm1b, head",
    "bert, head",
    "roberta",
    "esmc, head",
    "megatron",
    "blenderbot",
    "t5",
    "t5, whole",
    "t5, decoder",
)
compile_for_real = torch.compile


@pytest.fixture(autouse=True)
def no_code_left() -> Iterator[None]:
    """What was compiled for one test is not used in another."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compile_with(backend: str) -> Callable[..., Any]:
    """torch.compile by a back end that needs no GPU."""
    return lambda function, **options: compile_for_real(function, backend=backend, **options)


def groups(*shapes: tuple[int, int]) -> list[Tensor]:
    """Tokens of groups of these shapes."""
    return [torch.randint(5, 20, shape, generator=torch.Generator().manual_seed(1)) for shape in shapes]


def on_cpu(linear: nn.Linear) -> nn.Module:
    """What `TanhGeluLinear` does on a GPU."""
    return nn.Sequential(linear, nn.GELU("tanh"))


def check(folder: Path, kind: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with the encoder as it is, over batches of all shapes, and count what was compiled."""
    plain, changed = (load_model(folder, KINDS[kind].features).encoder for _ in range(2))
    monkeypatch.setattr(torch, "compile", compile_with(backend))
    monkeypatch.setattr(fused, "TanhGeluLinear", on_cpu)
    fuse_passes(changed)
    compiled = []
    with torch.inference_mode():
        for shapes in ([(3, 30)], [(2, 17), (1, 5), (4, 3)], [(1, 1)], [(7, 38)], [(1, 20)], [(2, 9), (2, 2)]):
            batch = groups(*shapes)
            for one, other in zip(changed.stream(batch), plain.stream(batch), strict=True):
                assert (one - other).abs().max() < 2e-5 * other.abs().max()
            compiled.append(counters["stats"]["unique_graphs"])
    # Two or three pieces of a layer, for any number of tokens and for one.
    assert 2 <= compiled[0] <= 5
    assert compiled[-1] <= 2 * compiled[0]
    assert compiled[-1] == compiled[3]


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.slow
def test_hidden_states_stay_and_no_length_is_compiled_anew(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(make(KINDS[kind], tmp_path), kind, "eager", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["esm", "megatron", "t5, whole"])
def test_hidden_states_stay_when_torch_writes_the_code(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(make(KINDS[kind], tmp_path), kind, "inductor", monkeypatch)


@pytest.mark.slow
def test_gelu_goes_into_the_product_where_it_is_the_tanh_form(tmp_path: Path) -> None:
    for kind, is_tanh in (("megatron", True), ("esm", False), ("blenderbot", False), ("t5, whole", False)):
        encoder = load_model(make(KINDS[kind], tmp_path / kind)).encoder
        fuse_passes(encoder)
        assert all(isinstance(layer.mlp_in, TanhGeluLinear) == is_tanh for layer in encoder.layers)


@torch.inference_mode()
def test_product_and_gelu_are_one_operation_of_the_device() -> None:
    linear = nn.Linear(6, 9)
    x = torch.randn(4, 6)
    # On a CPU it has the other form, by which its product and its bias can be seen.
    expected = nn.functional.gelu(linear(x))
    assert torch.allclose(TanhGeluLinear(linear)(x), expected, atol=1e-6)
    with FakeCuda().entered() as cuda:
        linear.to("cuda", torch.bfloat16)
        hidden = torch.empty(4, 6, device="cuda", dtype=torch.bfloat16)
        cuda.operations.clear()
        assert TanhGeluLinear(linear)(hidden).shape == (4, 9)
        assert cuda.operations["_addmm_activation"] == 1


def test_fused_passes_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the compiler, which cannot look into fake tensors of a device that is not there."""
    model = load_model(make(KINDS["megatron"], tmp_path))
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    compared = []
    monkeypatch.setattr(engine_module, "check_close", lambda *states: compared.append(states))
    with FakeCuda().entered() as cuda:
        engine = Engine(model, device="cuda", dtype="bfloat16", fused=True)
        cuda.operations.clear()
        engine.embed(Sequences.join([b"MKV"]))
        assert cuda.operations["_addmm_activation"] == engine.encoder.n_layers
        assert "gelu" not in cuda.operations
    ((before, after),) = compared
    assert before.shape == after.shape == (2, 32, 16)


@pytest.mark.parametrize(("error", "is_refused"), [(1e-3, False), (1.0, True), (float("nan"), True)])
def test_hidden_states_that_are_others_are_refused(error: float, is_refused: bool) -> None:
    before = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))
    after = before + error * torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(2))
    with pytest.raises(UserError, match="its hidden states are others") if is_refused else nullcontext():
        check_close(before, after)


def test_fused_passes_are_refused_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"embed\.fused is true, which is for GPUs; set it to false"):
        Engine(load_model(make(KINDS["esm"], tmp_path)), fused=True)


def test_a_compiler_that_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(make(KINDS["esm"], tmp_path))

    def fail(*arguments: object) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(torch, "compile", lambda function, **options: fail)
    with (
        FakeCuda().entered(),
        pytest.raises(UserError, match=r"cannot compile on .*C compiler.* set it to false") as error,
    ):
        Engine(model, device="cuda", fused=True)
    assert "\n" not in str(error.value)
