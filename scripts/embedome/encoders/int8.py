"""Linear layers in 8-bit integers, for x86 processors with VNNI.

Weights have a scale for each output, inputs one for each token, found as it passes (dynamic quantisation): a vector
does not depend on what else is in the batch, as it would with one scale for a whole batch.
"""

import torch
from torch import Tensor, nn

LARGEST = 127


class Int8Linear(nn.Module):
    """A linear layer whose products are of integers: ``y = (q(x) q(W)^T) * scale_x * scale_W + b``.

    Parameters
    ----------
    linear : torch.nn.Linear
        In float32.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weights, scale = quantise(linear.weight.detach())
        self.register_buffer("weights", weights.t().contiguous())
        self.register_buffer("scale", scale.flatten())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [..., in] to float32 [..., out]."""
        values, scale = quantise(x.reshape(-1, self.in_features))
        y = torch._int_mm(values, self.weights) * scale
        y *= self.scale
        if self.bias is not None:
            y += self.bias
        return y.view(*x.shape[:-1], self.out_features)


def quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values [n, k] as int8 [n, k] and the scale of each row, float32 [n, 1]."""
    scale = values.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(values.dtype).tiny) / LARGEST
    return (values / scale).round_().to(torch.int8), scale


def quantise_linears(module: nn.Module) -> nn.Module:
    """Put an `Int8Linear` in the place of every linear layer of a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            quantise_linears(child)
    return module
