"""Linear layers in 8-bit integers, for x86 processors with VNNI.

Weights have a scale for each output, inputs one for each token, found as it passes (dynamic quantisation): a vector
does not depend on what else is in the batch, as it would with one scale for a whole batch.
"""

import torch
from torch import Tensor, nn

LARGEST = 127
# Tokens at once: quantising passes over them several times, and larger blocks fall out of the caches.
BLOCK_TOKENS = 256


class Int8Linear(nn.Module):
    """A linear layer whose products are of integers: ``y = (q(x) q(W)^T) * scale_x * scale_W + b``.

    Parameters
    ----------
    linear : torch.nn.Linear
        In float32.
    """

    weights: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weights, scale = quantise(linear.weight.detach())
        self.register_buffer("weights", weights.t().contiguous())
        self.register_buffer("scale", scale.flatten())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [..., in] to float32 [..., out]."""
        y = x.new_empty(*x.shape[:-1], self.out_features)
        blocks = (each.reshape(-1, each.shape[-1]).split(BLOCK_TOKENS) for each in (x, y.view(-1, self.out_features)))
        for inputs, outputs in zip(*blocks, strict=True):
            values, scale = quantise(inputs)
            torch.mul(torch._int_mm(values, self.weights), scale, out=outputs)
            outputs *= self.scale
            if self.bias is not None:
                outputs += self.bias
        return y


def products_are_exact() -> bool:
    """Return whether this processor adds up products of integers without overflow.

    Without VNNI it adds two at a time in 16 bits.
    """
    ones = torch.full((64, 64), LARGEST, dtype=torch.int8)
    return bool((torch._int_mm(ones, ones) == 64 * LARGEST**2).all())


def quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return values [n, k] as int8 [n, k] and the scale of each row, float32 [n, 1]."""
    scale = values.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(values.dtype).tiny) / LARGEST
    return (values * scale.reciprocal()).round_().to(torch.int8), scale


def quantise_linears(module: nn.Module) -> nn.Module:
    """Put an `Int8Linear` in the place of every linear layer of a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            quantise_linears(child)
    return module
