"""Fewer passes over the hidden states of an encoder on a GPU, where memory and not arithmetic is the limit.

What is done to each token by itself, before attention and after it, is compiled for all layers alike: norms, residual
sums, gates and rotations become one pass each. GELU by tanh is part of the matrix product before it. Attention is not
compiled: it is called for each length, and a compiler would start again for each number of sequences.

Shapes: T tokens, D dimension, F feed-forward dimension.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from embedome.models.encoders.grouped import StreamEncoder
from embedome.models.encoders.layers import tanh_gelu

# Of a layer, what takes each token by itself.
TOKENWISE = ("project", "turn", "finish")


class TanhGeluLinear(nn.Module):
    """A linear layer and GELU by tanh in one operation, which cuBLASLt has for its results before they are written.

    On a CPU torch's operation has the other form of GELU, by the error function: this is for GPUs.

    Parameters
    ----------
    linear : torch.nn.Linear
        With a bias.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map [T, D] to [T, F]."""
        return torch._addmm_activation(self.bias, x, self.weight.t(), use_gelu=True)


def compile_any_length(function: Callable) -> Callable:
    """Have torch compile a function once for any number of tokens."""
    return torch.compile(function, dynamic=True)


def fuse_passes(encoder: StreamEncoder, compiled: Callable[[Callable], Callable] = compile_any_length) -> None:
    """Change an encoder for inference on a GPU, so that it passes over its hidden states less often.

    Its results differ in the last bits.

    Parameters
    ----------
    encoder : StreamEncoder
    compiled : callable
        Returns a function that does the same with fewer passes.
    """
    for module in encoder.modules():
        linear = getattr(module, "mlp_in", None)
        is_tanh = getattr(module, "activation", None) is tanh_gelu
        if is_tanh and isinstance(linear, nn.Linear) and linear.bias is not None:
            module.mlp_in, module.activation = TanhGeluLinear(linear), nn.Identity()
        for name in TOKENWISE:
            if hasattr(module, name):
                setattr(module, name, compiled(getattr(module, name)))
