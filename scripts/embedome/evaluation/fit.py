"""Training a head with torch, and what it predicts; the same numbers each time, for a seed and a number of threads.

Shapes: n proteins, T labels, C outputs.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from embedome.common.errors import UserError
from embedome.common.log import Progress
from embedome.evaluation.head_data import Chunk, HeadData
from embedome.evaluation.head_recipes import HeadRecipe
from embedome.evaluation.heads import Head, inside, make_head
from embedome.evaluation.tasks import CLASSES, LABELS, TRAIN, VAL

log = logging.getLogger(__name__)

# Of a number's head the one output is the number.
Score = Callable[[np.ndarray], float]


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
        optimiser = make_optimiser(recipe, self.head)
        schedule = recipe.schedule
        if schedule and not schedule.steps:
            schedule = replace(schedule, steps=steps * recipe.epochs)
        best, weights, since = -np.inf, self.weights(), 0
        with Progress(f"head {recipe.name}, seed {self.seed}", "proteins", len(train) * recipe.epochs) as progress:
            for epoch in range(recipe.epochs):
                order = train[np.random.default_rng([self.seed, epoch]).permutation(len(train))]
                self.head.train()
                for step in range(steps):
                    rate = schedule.rate(epoch * steps + step) if schedule else recipe.lr
                    for group in optimiser.param_groups:
                        group["lr"] = rate
                    batch = order[step * recipe.batch : (step + 1) * recipe.batch]
                    if len(batch) >= self.head.smallest:
                        self.step(batch, optimiser)
                    progress.update(len(batch))
                self.epochs = epoch + 1
                if recipe.best or recipe.patience:
                    found = score(self.predict(self.data.of_split(VAL)))
                    if found > best:
                        best, weights, since = found, self.weights(), 0
                    else:
                        since += 1
                    if recipe.patience and since >= recipe.patience:
                        break
        if recipe.best or recipe.patience:
            self.head.load_state_dict(weights)

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the head's weights."""
        return {name: tensor.clone() for name, tensor in self.head.state_dict().items()}

    def step(self, batch: np.ndarray, optimiser: torch.optim.Optimizer) -> None:
        """Make one step; the loss is of all of its labels together, however proteins are cut into chunks."""
        tokens = self.recipe.loss_tokens
        weight = 1 / (len(batch) * tokens) if tokens else 1 / max(1, self.data.n_labels(batch))
        optimiser.zero_grad()
        pooled, chunks, total = [], [], torch.zeros((), device=self.device)
        for _, chunk in self.data.chunks(batch, self.head.edge, self.head.alone):
            chunk = self.to_device(chunk)
            found = self.head(chunk.features, chunk.lengths)
            if self.data.by_residue:
                loss = weight * self.loss(found[inside(found, chunk.lengths)], chunk)
                loss.backward()
                total += loss.detach()
            else:
                pooled.append(found)
                chunks.append(chunk)
        if pooled:
            targets, masks = torch.cat([each.targets for each in chunks]), torch.cat([each.mask for each in chunks])
            joined = chunks[0]._replace(targets=targets, mask=masks)
            loss = weight * self.loss(self.head.finish(torch.cat(pooled)), joined)
            loss.backward()
            total += loss.detach()
        if not torch.isfinite(total):
            raise UserError(
                f"the head {self.recipe.name} diverged: its loss is {total.item()}; are features or numbers far from 1?"
            )
        if self.recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.head.parameters(), self.recipe.clip)
        optimiser.step()

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
        self.head.eval()
        found: dict[int, np.ndarray] = {}
        for mine, chunk in self.data.chunks(indices, self.head.edge, self.head.alone):
            chunk = self.to_device(chunk)
            outputs = self.head(chunk.features, chunk.lengths)
            outputs = outputs[inside(outputs, chunk.lengths)] if self.data.by_residue else self.head.finish(outputs)
            ends = np.cumsum(chunk.lengths.cpu().numpy() if self.data.by_residue else np.ones(len(mine), int))
            found |= dict(zip(mine.tolist(), np.split(outputs.cpu().numpy(), ends[:-1]), strict=True))
        return np.concatenate([found[index] for index in indices.tolist()])


def make_optimiser(recipe: HeadRecipe, head: Head) -> torch.optim.Optimizer:
    """Make Adam, or AdamW where weight decay is apart from the gradient."""
    kind = torch.optim.AdamW if recipe.decoupled else torch.optim.Adam
    return kind(head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
