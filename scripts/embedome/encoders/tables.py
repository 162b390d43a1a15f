"""Embedding tables without the random numbers that a checkpoint replaces."""

import torch
from torch import nn


def embedding(rows: int, dimension: int) -> nn.Embedding:
    """A table whose weights are not set; torch would draw them, for which it loads its compiler on the meta device."""
    return nn.Embedding.from_pretrained(torch.empty(rows, dimension), freeze=False)
