"""What encoders have in common where they take over a checkpoint's tensors."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def stacked(weights: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Tensors of a checkpoint as one, row by row; one alone as it lies in its file, which no memory is taken for."""
    tensors = [weights[name] for name in names]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
