"""Floating-point operations of an encoder, per token and per pair of tokens."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedome.models.encoders.grouped import StreamEncoder


def operations(encoder: "StreamEncoder") -> tuple[int, int]:
    """Count the floating-point operations of an encoder per token, and per pair of tokens.

    Per token 2 for each weight of its matrices; per pair 4 for each dimension of the attention of each layer
    (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
    """
    from torch import nn

    matrices = [(name, module) for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
    linear = 2 * sum(module.weight.numel() for _, module in matrices)
    widths = sum(module.in_features for name, module in matrices if name.endswith("attention_out"))
    # Of a class of transformers it is not known which they are.
    return linear, 4 * (widths or len(encoder.layers) * encoder.dimension)
