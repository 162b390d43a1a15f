"""What an evaluation will take, before anything runs: seconds, and bytes of features on disk. Guesses, not measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedome.embedding.cost import PICOSECONDS, SUSTAINED_FLOPS, estimate_cost, longest_costed
from embedome.engine.windows import LongPolicy
from embedome.evaluation.examples import ExampleSet
from embedome.evaluation.head_recipes import RECIPES, RIDGE, features_of
from embedome.evaluation.heads import make_head
from embedome.evaluation.linear_heads import EPOCHS, RIDGE_PENALTIES, STEP_PENALTIES
from embedome.evaluation.tasks import RESIDUE, TRAIN
from embedome.models.directory import Model

HALF_BYTES = 2
# Forward and backward pass, of multiplications and additions.
TRAINING_FACTOR = 6


@dataclass(frozen=True, slots=True)
class Cost:
    """What something takes.

    Parameters
    ----------
    seconds : float
    bytes : int
    """

    seconds: float = 0.0
    bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, self.bytes + other.bytes)

    def __str__(self) -> str:
        time = f"{self.seconds / 3600:,.1f} hours" if self.seconds > 5400 else f"{self.seconds / 60:,.1f} minutes"
        return f"about {time}, {self.bytes / 1e9:,.2f} GB of features"


def embedding_cost(model: Model, policy: LongPolicy, sequences: Sequence[bytes], device: str) -> float:
    """Return the seconds that one layer's features take, by the model's operations."""
    cost = estimate_cost(model.encoder, longest_costed(policy, model.max_residues), SUSTAINED_FLOPS[device])
    lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
    return float(cost.picoseconds(lengths).sum() / PICOSECONDS)


def feature_bytes(rows: int, dimension: int) -> int:
    """Return the bytes of features on disk."""
    return HALF_BYTES * rows * dimension


def head_seconds(head: str, examples: ExampleSet, dimension: int, device: str) -> float:
    """Return the seconds of one training of a head, at most, by its operations on train proteins."""
    import torch

    labelling, train = examples.labelling, examples.of_split(TRAIN)
    by_residue = features_of(head, labelling.level) == RESIDUE
    rows = int(examples.lengths[train].sum()) if by_residue else len(train)
    if head in RECIPES:
        with torch.device("meta"):
            module = make_head(RECIPES[head], dimension, labelling.outputs, labelling.level)
        size = sum(parameter.numel() for parameter in module.parameters())
        return TRAINING_FACTOR * size * rows * RECIPES[head].epochs / SUSTAINED_FLOPS[device]
    if head == RIDGE:
        # Products, and their eigenvectors.
        work = 2 * rows * dimension**2 + (10 + len(RIDGE_PENALTIES)) * dimension**3
    else:
        work = TRAINING_FACTOR * rows * dimension * labelling.outputs * EPOCHS * len(STEP_PENALTIES)
    return work / SUSTAINED_FLOPS["cpu"]
