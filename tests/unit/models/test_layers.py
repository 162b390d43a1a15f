"""Activations against the formula in double precision."""

import numpy as np
import pytest
import torch
from embedome.models.encoders import prenorm, t5
from embedome.models.encoders.layers import BLOCK_TOKENS, TRAINED_BLOCK_TOKENS, tanh_gelu

TOKENS = 2 * BLOCK_TOKENS + 7


def expected(x: torch.Tensor) -> np.ndarray:
    """Hendrycks and Gimpel's formula as it is written."""
    values = x.double().numpy()
    return values / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (values + 0.044715 * values**3)))


@pytest.fixture
def values() -> torch.Tensor:
    return torch.linspace(-12, 12, TOKENS * 50).view(TOKENS, 50)


@torch.inference_mode()
def test_tanh_gelu_is_that_of_the_paper(values):
    np.testing.assert_allclose(tanh_gelu(values.clone()).numpy(), expected(values), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_tanh_gelu_of_a_narrow_type_is_rounded_once(values, dtype):
    narrow = values.to(dtype)
    exact = torch.from_numpy(expected(narrow)).to(dtype)
    found = tanh_gelu(narrow.clone())
    assert found.dtype == dtype
    spacing = torch.finfo(dtype).eps * exact.abs().clamp(min=1e-3)
    assert ((found - exact).abs().double() <= spacing.double()).all()


@torch.inference_mode()
def test_tanh_gelu_of_a_gate_leaves_the_other_half_alone(values):
    both = values.repeat(1, 2)
    found = tanh_gelu(both[:, :50])
    np.testing.assert_allclose(found.numpy(), expected(values), atol=1e-6, rtol=1e-6)
    assert torch.equal(both[:, 50:], values)


@torch.inference_mode()
def test_tanh_gelu_of_huge_values_and_of_what_is_no_number():
    found = tanh_gelu(torch.tensor([[1e20, -1e20, float("inf"), float("nan"), 0.0]]))
    assert found[0, 0] == torch.tensor(1e20)
    assert found[0, 1] == 0
    assert found[0, 2] == float("inf")
    assert found[0, 3].isnan()
    assert found[0, 4] == 0


@pytest.mark.parametrize("count", [0, 1, TRAINED_BLOCK_TOKENS, 2 * TRAINED_BLOCK_TOKENS + 7])
def test_in_training_tanh_gelu_has_values_and_gradients_of_the_formula(count):
    x = torch.linspace(-12, 12, count * 50).view(count, 50).requires_grad_()
    exact = x.detach().double().requires_grad_()
    weights = torch.linspace(-1, 2, count * 50).view(count, 50)
    found, reference = tanh_gelu(x), torch.nn.functional.gelu(exact, approximate="tanh")
    (found * weights).sum().backward()
    (reference * weights).sum().backward()
    np.testing.assert_allclose(found.detach().numpy(), expected(x.detach()), atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), exact.grad.numpy(), atol=3e-6, rtol=1e-6)


def test_tanh_gelu_of_a_gate_in_training_leaves_what_it_is_given(values):
    both = values.repeat(1, 2).requires_grad_()
    gate, other = both.chunk(2, -1)
    (tanh_gelu(gate) * other).sum().backward()
    exact = values.double().requires_grad_()
    slopes = torch.autograd.grad(torch.nn.functional.gelu(exact, approximate="tanh").sum(), exact)[0]
    np.testing.assert_allclose(both.grad[:, :50].numpy(), (slopes * values).numpy(), atol=1e-5, rtol=1e-6)
    np.testing.assert_allclose(both.grad[:, 50:].numpy(), expected(values), atol=1e-6, rtol=1e-6)


@torch.inference_mode()
def test_compiled_tanh_gelu_is_one_graph(values):
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(tanh_gelu, backend=count, fullgraph=True)
    np.testing.assert_allclose(compiled(values.clone()).numpy(), expected(values), atol=1e-6, rtol=1e-6)
    assert len(graphs) == 1


@pytest.mark.parametrize("table", [prenorm.ACTIVATIONS, t5.ACTIVATIONS], ids=["preln", "t5"])
def test_names_are_those_of_hugging_face(values, table):
    from transformers.activations import ACT2FN

    for name, function in table.items():
        torch.testing.assert_close(function(values.clone()), ACT2FN[name](values), atol=1e-6, rtol=1e-6)
