"""Small things that encoders share: activations, a fast GELU by tanh, embedding tables."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Of the approximation of GELU by tanh (Hendrycks and Gimpel 2016, arXiv:1606.08415), the first times 2.
SCALE, CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715
# Tokens at once, so that intermediate values stay in the caches.
BLOCK_TOKENS, TRAINED_BLOCK_TOKENS = 32, 128


def tanh_gelu(x: Tensor) -> Tensor:
    """Compute GELU of [T, F] by tanh: ``x / 2 (1 + tanh(v / 2)) = x sigmoid(v)``, ``v = SCALE (x + CUBIC x^3)``.

    On a CPU it overwrites its input, but in training: torch's own takes twice as long, a fifth of a model's time in
    bfloat16.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.gelu(x, approximate="tanh")
    if x.requires_grad:
        return TrainedGelu.apply(x) if x.dtype == torch.float32 else functional.gelu(x, approximate="tanh")
    scale = torch.tensor(SCALE)
    for part in x.split(BLOCK_TOKENS):
        values = part.float()  # itself where it is in float32
        slopes = torch.addcmul(scale, values, values, value=SCALE * CUBIC)
        part.copy_(values.mul_(slopes.mul_(values).sigmoid_()))
    return x


class TrainedGelu(torch.autograd.Function):
    """`tanh_gelu` of [T, F] in float32 on a CPU, with a gradient; its slopes are found and kept with its values.

    With ``s = sigmoid(v)`` the slope is ``s + x s (1 - s) v'``, ``v' = 3 v / x - 2 SCALE``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the values."""
        found, slopes, scale = torch.empty_like(x), torch.empty_like(x), torch.tensor(SCALE)
        room = x.new_empty(3, min(len(x), TRAINED_BLOCK_TOKENS), x.shape[1])
        for part, value, slope in zip(*(each.split(TRAINED_BLOCK_TOKENS) for each in (x, found, slopes)), strict=True):
            ratio, sigmoid, rest = room[:, : len(part)]
            torch.addcmul(scale, part, part, value=SCALE * CUBIC, out=ratio)
            torch.mul(ratio, part, out=sigmoid).sigmoid_()
            torch.mul(part, sigmoid, out=value)
            torch.addcmul(value, value, sigmoid, value=-1, out=rest)
            torch.addcmul(sigmoid, ratio, rest, value=3, out=slope).add_(rest, alpha=-2 * SCALE)
        ctx.save_for_backward(slopes)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the gradient of x, where the slopes were."""
        return ctx.saved_tensors[0].mul_(gradient)


def embedding(rows: int, dimension: int) -> nn.Embedding:
    """Return a table whose weights are not set: to draw them, torch loads its compiler on the meta device."""
    return nn.Embedding.from_pretrained(torch.empty(rows, dimension), freeze=False)


def add_token_type(positions: nn.Embedding, token_types: nn.Embedding) -> None:
    """Add the embedding of token type 0, the only one used, to each position's."""
    with torch.no_grad():
        positions.weight += token_types.weight[0]


# By their names in config.json.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
}
