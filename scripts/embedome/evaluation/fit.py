"""Training a head with torch, and what it predicts; the same numbers each time, for a seed and a number of threads.

Shapes: n proteins, T labels, C outputs.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from embedome.common.errors import UserError
from embedome.common.log import Progress
from embedome.evaluation.head_data import Chunk, HeadData
from embedome.evaluation.head_recipes import HeadRecipe
from embedome.evaluation.heads import inside, make_head
from embedome.evaluation.tasks import CLASSES, LABELS, TRAIN, VAL

log = logging.getLogger(__name__)

# Of a number's head the one output is the number.
Score = Callable[[np.ndarray], float]


@dataclass(slots=True)
class Reached:
    """How far training has come.

    Parameters
    ----------
    weights : dict of str to torch.Tensor
        The best so far.
    epochs, since : int
        Done, and done since the best one.
    best : float
        Validation score.
    """

    weights: dict[str, Tensor]
    epochs: int = 0
    since: int = 0
    best: float = -math.inf

    def add(self, found: float, weights: dict[str, Tensor]) -> None:
        """Take the score of an epoch, and its weights if it is the best one."""
        self.since += 1
        if found > self.best:
            self.best, self.weights, self.since = found, weights, 0


class TorchFit:
    """A head that is trained.

    Parameters
    ----------
    recipe : HeadRecipe
    data : HeadData
    seed : int
        Of weights, order and dropout.
    device : str
    """

    def __init__(self, recipe: HeadRecipe, data: HeadData, seed: int, device: str = "cpu") -> None:
        self.recipe, self.data, self.device = recipe, data, torch.device(device)
        self.seed, labelling = seed, data.examples.labelling
        self.kind, self.epochs = labelling.kind, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = make_head(recipe, data.features.dimension, labelling.outputs, labelling.level).to(self.device)
        # All that is trained: more than the head where the model is, too.
        self.trained: nn.Module = self.head

    def fit(self, score: Score) -> None:
        """Train on train proteins.

        Parameters
        ----------
        score : callable
            Of outputs for the validation proteins, [T, C]: larger is better.

        Raises
        ------
        UserError
            Where the loss is not finite.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            self.run_epochs(score)

    def run_epochs(self, score: Score) -> None:
        """Train epoch by epoch, and take the weights that the recipe takes."""
        recipe, train = self.recipe, self.data.of_split(TRAIN)
        steps = -(-len(train) // recipe.batch)
        optimiser = make_optimiser(recipe, self.trained)
        schedule = recipe.schedule
        if schedule and not schedule.steps:
            schedule = replace(schedule, steps=steps * recipe.epochs)
        reached = self.resume(Reached(self.weights()), optimiser)
        with Progress(f"head {recipe.name}, seed {self.seed}", "proteins", len(train) * recipe.epochs) as progress:
            for epoch in range(reached.epochs, recipe.epochs):
                if recipe.patience and reached.since >= recipe.patience:
                    break
                order = train[np.random.default_rng([self.seed, epoch]).permutation(len(train))]
                self.trained.train()
                for step in range(steps):
                    rate = schedule.rate(epoch * steps + step) if schedule else recipe.lr
                    for group in optimiser.param_groups:
                        group["lr"] = rate
                    batch = order[step * recipe.batch : (step + 1) * recipe.batch]
                    if len(batch) >= self.head.smallest:
                        self.step(batch, optimiser)
                    progress.update(len(batch))
                reached.epochs = epoch + 1
                if recipe.best or recipe.patience:
                    reached.add(score(self.predict(self.data.of_split(VAL))), self.weights())
                self.keep(reached, optimiser)
        self.epochs = reached.epochs
        if recipe.best or recipe.patience:
            self.trained.load_state_dict(reached.weights)

    def resume(self, reached: Reached, optimiser: torch.optim.Optimizer) -> Reached:
        """Return how far an earlier run has come; a head alone takes seconds, and begins again."""
        return reached

    def keep(self, reached: Reached, optimiser: torch.optim.Optimizer) -> None:
        """Keep what an epoch has come to, for `resume`."""

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the weights that are trained."""
        return {name: tensor.clone() for name, tensor in self.trained.state_dict().items()}

    def step(self, batch: np.ndarray, optimiser: torch.optim.Optimizer) -> None:
        """Make one step; the loss is of all of its labels together, however proteins are cut into chunks."""
        tokens = self.recipe.loss_tokens
        weight = 1 / (len(batch) * tokens) if tokens else 1 / max(1, self.data.n_labels(batch))
        optimiser.zero_grad()
        total = self.residue_loss(batch, weight) if self.data.by_residue else self.protein_loss(batch, weight)
        if not torch.isfinite(total):
            raise UserError(
                f"the head {self.recipe.name} diverged: its loss is {total.item()}; are features or numbers far from 1?"
            )
        if self.recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip)
        optimiser.step()

    def residue_loss(self, batch: np.ndarray, weight: float) -> Tensor:
        """Add up gradients, chunks that share a graph at once; return the loss."""
        total = torch.zeros((), device=self.device)
        for chunks in self.data.micro_batches(batch, self.head.edge, self.head.alone):
            losses = []
            for _, chunk in chunks:
                chunk = self.to_device(chunk)
                found = self.head(chunk.features, chunk.lengths)
                losses.append(weight * self.loss(found[inside(found, chunk.lengths)], chunk))
            loss = sum(losses[1:], losses[0])
            loss.backward()
            total += loss.detach()
        return total

    def protein_loss(self, batch: np.ndarray, weight: float) -> Tensor:
        """Compute gradients of all proteins of a step at once; return the loss."""
        pooled, chunks = [], []
        for _, chunk in self.data.chunks(batch, self.head.edge, self.head.alone):
            chunk = self.to_device(chunk)
            pooled.append(self.head(chunk.features, chunk.lengths))
            chunks.append(chunk)
        targets, masks = torch.cat([each.targets for each in chunks]), torch.cat([each.mask for each in chunks])
        joined = chunks[0]._replace(targets=targets, mask=masks)
        loss = weight * self.loss(self.head.finish(torch.cat(pooled)), joined)
        loss.backward()
        return loss.detach()

    def to_device(self, chunk: Chunk) -> Chunk:
        """Copy a chunk to the device."""
        return Chunk(*(tensor.to(self.device) for tensor in chunk))

    def loss(self, outputs: Tensor, chunk: Chunk) -> Tensor:
        """Return the sum of the losses of labels that count; of several labels, the mean over these."""
        outputs, targets = outputs[chunk.mask], chunk.targets[chunk.mask]
        if self.kind == CLASSES:
            return functional.cross_entropy(outputs, targets, reduction="sum")
        if self.kind == LABELS:
            return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(-1).sum()
        return functional.mse_loss(outputs[:, 0], targets, reduction="sum")

    @torch.inference_mode()
    def predict(self, indices: np.ndarray) -> np.ndarray:
        """Return outputs for the labels of proteins, one protein after the other, float32 [T, C]."""
        self.trained.eval()
        found: dict[int, np.ndarray] = {}
        for mine, chunk in self.data.chunks(indices, self.head.edge, self.head.alone):
            chunk = self.to_device(chunk)
            outputs = self.head(chunk.features, chunk.lengths)
            outputs = outputs[inside(outputs, chunk.lengths)] if self.data.by_residue else self.head.finish(outputs)
            ends = np.cumsum(chunk.lengths.cpu().numpy() if self.data.by_residue else np.ones(len(mine), int))
            found |= dict(zip(mine.tolist(), np.split(outputs.cpu().numpy(), ends[:-1]), strict=True))
        return np.concatenate([found[index] for index in indices.tolist()])


def make_optimiser(recipe: HeadRecipe, trained: nn.Module) -> torch.optim.Optimizer:
    """Make Adam, or AdamW where weight decay is apart from the gradient."""
    kind = torch.optim.AdamW if recipe.decoupled else torch.optim.Adam
    return kind(trained.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
