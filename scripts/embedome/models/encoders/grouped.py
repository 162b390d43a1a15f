"""Groups of sequences, each of one length, as one stream of tokens.

Linear layers, norms and activations take each token by itself: they run over all groups at once, as fast as one large
matrix product. Attention takes each group by itself. Nothing is padded, and nothing is masked.

Shapes: a group's B sequences of L tokens, T tokens of all groups, D model dimension, H heads, K dimension of a head.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedome.models.tensors import TensorMap


class StreamEncoder(nn.Module):
    """An encoder of sequences of one length, or of several groups of such at once.

    Every encoder sets these attributes.

    Attributes
    ----------
    dimension : int
        Of the hidden states.
    n_layers : int
    max_tokens : int or None
        Tokens of the longest sequence, special ones included; None where positions have no end.
    words : torch.nn.Embedding
        Of the tokens.
    layers : torch.nn.ModuleList
        Each is called with the hidden states [T, D] as its first argument, and returns those after it, as a new tensor:
        the engine takes the states of several layers there (engine/encoder_pass.py).
    final_norm : torch.nn.Module
        After the last layer.
    padding : int or None
        Of the token whose learned position is the last before that of a sequence's first token; None of others.
    float16_safe : bool
        Whether hidden states stay within half precision.
    int8_safe : bool
        Whether linear layers may be put in integers (`int8.quantise_linears`).
    """

    dimension: int
    n_layers: int
    max_tokens: int | None
    words: nn.Embedding
    layers: nn.ModuleList
    final_norm: nn.Module
    padding: int | None = None
    float16_safe: bool = True
    int8_safe: bool = True

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, L] of sequences of one length to hidden states [B, L, D] after the final norm."""
        return self.stream([tokens])[0]

    def stream(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """Return what `forward` returns for each group [B, L], hidden states [B, L, D], but for rounding."""
        raise NotImplementedError

    def group_bytes(self, length: int) -> int:
        """Return the bytes that a group of sequences of `length` tokens takes beside its tokens, whatever its size."""
        return 0

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """Return what the tensors of a Hugging Face checkpoint are to this module."""
        raise NotImplementedError

    def settle(self) -> None:
        """Finish the module once all tensors are filled."""


def join(parts: Iterable[Tensor]) -> Tensor:
    """Put the values of each group's tokens [B, L, ...] in one row [T, ...]."""
    rows = [part.flatten(0, 1) for part in parts]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def split(row: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Undo `join`, given the groups' shapes (B, L); return views."""
    parts = row.split([batch * length for batch, length in shapes])
    return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """Compute attention within each sequence of a group, of [B, L, H, K] each, to [B, L, H * K].

    Scores are scaled by 1 / sqrt(K) where no scale is given, and added to a bias [1, H, L, L].
    """
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))  # heads first
    found = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout, is_causal=causal, scale=scale
    )
    return found.transpose(1, 2).flatten(2)
