"""The published heads as modules: small networks on frozen features.

Shapes: B proteins, L residues of the longest, D dimension of features, C outputs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedome.common.errors import UserError
from embedome.evaluation.head_recipes import CONVBERT, CONVOLUTIONS, LIGHT_ATTENTION, MLP, HeadRecipe
from embedome.evaluation.tasks import PROTEIN


class Head(nn.Module):
    """A head: what it makes of features, and what of that becomes its outputs."""

    # Rows of zeros that follow the longest protein; whether each runs by itself, without any other's padding.
    edge, alone = 0, False
    # Proteins of a step, at the least.
    smallest = 1

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return outputs of residues [B, L, C], or of proteins what `finish` takes.

        Parameters
        ----------
        features : torch.Tensor, dtype=float32, shape=(B, L, D)
            Zeros beyond a protein's end.
        lengths : torch.Tensor, dtype=int64, shape=(B,)
        """
        raise NotImplementedError

    def finish(self, pooled: Tensor) -> Tensor:
        """Return outputs of proteins [B, C], all those of a step at once."""
        return pooled


def inside(features: Tensor, lengths: Tensor) -> Tensor:
    """Return which rows are residues, bool [B, L]."""
    return torch.arange(features.shape[1], device=features.device) < lengths[:, None]


class Convolutions(Head):
    """BioNeMo's two convolutions of width 7.

    A protein has the outputs that it has in BioNeMo's batch, in which rows of zeros follow it: the first convolution's
    values there, which are not zeros, reach its last three residues. In front of it there is nothing.
    """

    width = 7
    edge = width // 2

    def __init__(self, dimension: int, outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv1d(dimension, hidden, self.width, padding=self.edge)
        self.second = nn.Conv1d(hidden, outputs, self.width, padding=self.edge)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return outputs of residues; see `Head.forward`."""
        found = self.dropout(functional.relu(self.first(features.transpose(1, 2))))
        # As far as the second one looks beyond the end: whatever else is in the batch.
        found = found * inside(features, lengths + self.edge)[:, None]
        return self.second(found).transpose(1, 2)


class Perceptron(Head):
    """BioNeMo's perceptron with one hidden layer."""

    def __init__(self, dimension: int, outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(dimension, hidden), nn.Linear(hidden, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return outputs of proteins, of one vector each [B, 1, D]; see `Head.forward`."""
        return self.second(self.dropout(functional.relu(self.first(features[:, 0]))))


class LightAttention(Head):
    """Light attention (Stärk et al. 2021): residues weighed by a convolution's softmax, beside their maximum."""

    width = 9
    # A batch of one has no variance.
    smallest = 2

    def __init__(self, dimension: int, outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Conv1d(dimension, dimension, self.width, padding=self.width // 2)
        self.attention = nn.Conv1d(dimension, dimension, self.width, padding=self.width // 2)
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Sequential(
            nn.Linear(2 * dimension, hidden), nn.Dropout(dropout), nn.ReLU(), nn.BatchNorm1d(hidden)
        )
        self.output = nn.Linear(hidden, outputs)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return pooled features [B, 2 D]; see `Head.forward`."""
        turned, outside = features.transpose(1, 2), ~inside(features, lengths)[:, None]
        values = self.dropout(self.features(turned))
        weights = self.attention(turned).masked_fill(outside, -torch.inf).softmax(-1)
        return torch.cat([(values * weights).sum(-1), values.masked_fill(outside, -torch.inf).amax(-1)], -1)

    def finish(self, pooled: Tensor) -> Tensor:
        """Return outputs of proteins; batch normalisation needs all of a step."""
        return self.output(self.hidden(pooled))


class ConvBert(Head):
    """Ankh's head: one layer of ConvBERT (Jiang et al. 2020, arXiv:2008.02496), and a linear one."""

    heads, width, bound = 4, 7, 0.1
    alone = True

    def __init__(self, dimension: int, outputs: int, level: str, dropout: float) -> None:
        super().__init__()
        from transformers import ConvBertConfig, ConvBertModel

        if dimension % self.heads:
            raise UserError(f"the head convbert needs a dimension that {self.heads} divides, but it is {dimension}")
        config = ConvBertConfig(
            hidden_size=dimension,
            num_attention_heads=self.heads,
            intermediate_size=dimension // 2,
            conv_kernel_size=self.width,
            num_hidden_layers=1,
            hidden_dropout_prob=dropout,
            # Of the embedding, which is not used.
            vocab_size=1,
            embedding_size=dimension,
            max_position_embeddings=1,
            pad_token_id=0,
        )
        # Of a whole model, as that initialises it.
        self.layer, self.level = ConvBertModel(config).encoder.layer[0], level
        self.output = nn.Linear(dimension, outputs)
        nn.init.uniform_(self.output.weight, -self.bound, self.bound)
        nn.init.zeros_(self.output.bias)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return outputs of residues, or of proteins, whose residues' maximum is taken; see `Head.forward`."""
        found = self.layer(features)
        return self.output(found.amax(1) if self.level == PROTEIN else found)


def make_head(recipe: HeadRecipe, dimension: int, outputs: int, level: str) -> Head:
    """Make a head with random weights of torch's present seed."""
    if recipe.module == CONVBERT:
        return ConvBert(dimension, outputs, level, recipe.dropout)
    modules: dict[str, Callable[..., Head]] = {
        CONVOLUTIONS: Convolutions,
        MLP: Perceptron,
        LIGHT_ATTENTION: LightAttention,
    }
    return modules[recipe.module](dimension, outputs, recipe.hidden, recipe.dropout)
