"""The loop: steps, micro-batches, checkpoints, validation; it knows no model by name.

The loss is the sum over all labels of a step, on all devices, divided by their number; a mean of means would weigh
ranks and micro-batches unequally. All that a step depends on is the state of model and optimisers and the step's
number, so a run that was killed goes on from its last checkpoint to the same bytes.
"""

import logging
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from embedome.common.errors import UserError
from embedome.common.parallel import look_ahead, threads
from embedome.common.process import TERMINATED_EXIT
from embedome.training.batches import Batches, deal
from embedome.training.checkpoints import last_checkpoint, save_checkpoint, save_parts
from embedome.training.counter_random import combine
from embedome.training.device_batch import DeviceBatch, to_device
from embedome.training.model import Scores, TrainedModel
from embedome.training.objectives import Group
from embedome.training.optimisers import make_optimisers, set_rate
from embedome.training.ranks import Ranks
from embedome.training.recipes import Recipe
from embedome.training.sharding import gradient_norm, is_sharded, own_part
from embedome.training.training_log import TrainingLog
from embedome.training.utilisation import peak_rate, step_operations
from embedome.training.validation import Validation

log = logging.getLogger(__name__)

# Steps in a row whose loss or gradient is not finite: the run has diverged.
MOST_SKIPPED = 10
# Between a checkpoint and the next, whatever the recipe says: what a killed run loses at most.
SAVE_S = 600.0
# Lines of training.jsonl of a whole run, about.
LINES = 1000


@dataclass(frozen=True, slots=True)
class Sums:
    """What has been added up over labels: as `model.Scores`, and tokens."""

    loss: float = 0.0
    labels: float = 0.0
    residue_loss: float = 0.0
    residues: float = 0.0
    right: float = 0.0
    tokens: float = 0.0

    def plus(self, values: Sequence[float]) -> "Sums":
        """Return these and more."""
        mine = (getattr(self, name) for name in self.__slots__)
        return Sums(*(one + other for one, other in zip(mine, values, strict=True)))

    def means(self) -> dict[str, float]:
        """Loss per label, loss per hidden residue, and how many of these were guessed right."""
        return {
            "loss": self.loss / max(1, self.labels),
            "residue_loss": self.residue_loss / max(1, self.residues),
            "accuracy": self.right / max(1, self.residues),
        }


@dataclass(frozen=True, slots=True)
class Micro:
    """A rank's micro-batch.

    Parameters
    ----------
    step, number : int
    is_last : bool
        Of this step.
    tokens : int
    groups : list of Group
    """

    step: int
    number: int
    is_last: bool
    tokens: int
    groups: list[Group]


class Trainer:
    """A run on this process's device.

    Parameters
    ----------
    model : TrainedModel
    recipe : Recipe
    batches : Batches
    validation : Validation
    folder : Path
        For checkpoints and training.jsonl.
    ranks : Ranks
    budget : int
        Tokens of a micro-batch, about.
    """

    def __init__(
        self,
        model: TrainedModel,
        recipe: Recipe,
        batches: Batches,
        validation: Validation,
        folder: Path,
        ranks: Ranks,
        budget: int,
    ) -> None:
        self.model, self.recipe, self.batches, self.ranks, self.budget = model, recipe, batches, ranks, budget
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        self.optimisers = make_optimisers(model, recipe.optimiser)
        self.parameters = list(model.parameters())
        self.width, self.is_sharded = model.encoder.dimension, is_sharded(model)
        self.held_out = validation.micro_batches(budget, self.width, ranks.rank, ranks.count)
        # What the first rank has more of, and this one runs along: the others need its part of the weights.
        first = validation.micro_batches(budget, self.width, 0, ranks.count) if self.is_sharded else []
        self.idle = first[len(self.held_out) :]
        self.step, self.sums, self.tokens, self.skipped, self.in_a_row = 0, Sums(), 0, 0, 0
        self.stopped = False

    def run(self) -> None:
        """Train from the last checkpoint, or from the beginning, to the recipe's end.

        Raises
        ------
        UserError
            Where losses are no longer finite, or a checkpoint cannot be read.
        SystemExit
            On SIGTERM, after a checkpoint has been written.
        """
        self.resume()
        before = signal.signal(signal.SIGTERM, self.stop)
        try:
            with TrainingLog(self.folder, self.recipe.steps, self.ranks.is_first) as self.log:
                self.log.cut(self.step)
                self.train()
        finally:
            signal.signal(signal.SIGTERM, before)

    def resume(self) -> None:
        """Take up the last checkpoint, if there is one."""
        found = last_checkpoint(self.checkpoints)
        self.ranks.check_agreed("checkpoints", str(found and found.step))
        if found is None:
            return
        found.restore(self.model, self.optimisers)
        state = found.state()
        self.step, self.sums = found.step, Sums(*state["sums"])
        self.tokens, self.skipped, self.in_a_row = state["tokens"], state["skipped"], state["in_a_row"]
        log.info("going on from step %s of %s", f"{self.step:,}", f"{self.recipe.steps:,}")

    def train(self) -> None:
        """Go through all steps that are left."""
        wrapped, saved = self.model if self.is_sharded else self.ranks.wrap(self.model), time.monotonic()
        if self.step == 0:
            self.log.log_validation(0, self.evaluate())
        with threads(1) as pool:
            scores: list[Tensor] = []
            for micro in look_ahead(pool, self.micro_batches()):
                if self.must_stop():
                    self.save()
                    # Launchers end the other ranks when one has ended.
                    self.ranks.wait()
                    sys.exit(TERMINATED_EXIT)
                if (self.ranks.is_first or self.is_sharded) and self.log.peak_share is None:
                    self.log.peak_share = self.peak_share(micro)
                scores.append(self.run_micro(wrapped, micro))
                if not micro.is_last:
                    continue
                self.finish_step(torch.stack(scores).sum(0))
                scores = []
                if self.is_milestone() or self.is_due(time.monotonic() - saved > SAVE_S):
                    self.save()
                    saved = time.monotonic()

    def peak_share(self, micro: Micro) -> float:
        """Return which part of all devices' peak a token per second is."""
        batch = to_device(micro.groups, self.ranks.device)
        self.model.eval()
        operations = step_operations(self.model, batch) / micro.tokens
        return operations / (self.ranks.count * peak_rate(self.ranks.device))

    def micro_batches(self) -> Iterator[Micro]:
        """Return this rank's micro-batches of all steps that are left."""
        for step in range(self.step, self.recipe.steps):
            rows = self.batches.rows(step)
            pieces = deal(rows.tokens, self.ranks.count, self.budget, self.width)[self.ranks.rank]
            for number, piece in enumerate(pieces):
                mine = rows.take(piece)
                is_last = number == len(pieces) - 1
                yield Micro(step, number, is_last, int(mine.tokens.sum()), self.batches.groups(mine))

    def run_micro(self, wrapped: torch.nn.Module, micro: Micro) -> Tensor:
        """Add a micro-batch's gradients to those of its step; give its sums, float64 [6]."""
        self.model.train()
        if self.recipe.dropout:
            torch.manual_seed(int(combine(self.batches.seed, micro.step, self.ranks.rank, micro.number)) >> 1)
        batch = to_device(micro.groups, self.ranks.device)
        # Gradients are averaged over ranks with the last micro-batch of a step alone.
        if isinstance(wrapped, torch.nn.parallel.DistributedDataParallel) and not micro.is_last:
            with wrapped.no_sync():
                return self.backward(self.forward(wrapped, batch), micro.tokens)
        return self.backward(self.forward(wrapped, batch), micro.tokens)

    def forward(self, model: torch.nn.Module, batch: DeviceBatch) -> Scores:
        """Score a batch; on GPUs with matrix products in bfloat16, of weights in float32."""
        on_gpu = self.ranks.device.type == "cuda"
        # Copies in bfloat16 of all layers' weights would be kept until the end.
        kept = not self.is_sharded
        with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=on_gpu, cache_enabled=kept):
            return model(batch)

    def backward(self, scores: Scores, tokens: int) -> Tensor:
        """Add up gradients; give the sums."""
        scores.loss.backward()
        return torch.stack([*(value.detach().double() for value in scores), scores.loss.new_tensor(tokens).double()])

    def finish_step(self, scores: Tensor) -> None:
        """Update the weights with the gradients that were added up, and count the step."""
        sums = self.ranks.total(scores).tolist()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        # Sums, over all ranks averaged by now; what is wanted is the mean over labels.
        scale = self.ranks.count / max(1.0, sums[1])
        norm = gradient_norm(gradients).item() * scale
        rate = self.recipe.schedule.rate(self.step)
        if math.isfinite(sums[0]) and math.isfinite(norm):
            torch._foreach_mul_(
                [own_part(each) for each in gradients], scale * min(1.0, self.recipe.clip / max(norm, 1e-12))
            )
            set_rate(self.optimisers, rate)
            for optimiser in self.optimisers:
                optimiser.step()
            self.sums, self.in_a_row = self.sums.plus(sums), 0
        else:
            self.skip()
        for parameter in self.parameters:
            parameter.grad = None
        self.tokens += int(sums[5])
        self.step += 1
        self.tell(rate, norm)

    def skip(self) -> None:
        """Count a step that cannot be used.

        Raises
        ------
        UserError
            Where there were too many in a row.
        """
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        log.warning("step %s: loss or gradient is not finite; left out", f"{self.step + 1:,}")
        if self.in_a_row >= MOST_SKIPPED:
            raise UserError(
                f"loss or gradient was not finite in {MOST_SKIPPED} steps in a row, to step {self.step + 1:,}; "
                "lower the learning rate, or begin again with another seed"
            )

    def tell(self, rate: float, norm: float) -> None:
        """Write a line of training.jsonl, where one is due, and validate."""
        every = max(1, self.recipe.steps // LINES)
        if self.step % every == 0 or self.step == self.recipe.steps:
            values = {**self.sums.means(), "rate": rate, "norm": norm if math.isfinite(norm) else None}
            epoch = self.batches.epoch(self.step)
            self.log.log_training(self.step, {"epoch": epoch, "tokens": self.tokens, "skipped": self.skipped, **values})
            self.sums = Sums()
        if self.is_milestone():
            self.log.log_validation(self.step, self.evaluate())

    def is_milestone(self) -> bool:
        """Whether a checkpoint is due that may be averaged."""
        return self.step % self.recipe.every == 0 or self.step == self.recipe.steps

    @torch.no_grad()
    def evaluate(self) -> Mapping[str, float]:
        """Loss and accuracy on held-out sequences, the same residues hidden each time."""
        self.model.eval()
        total = torch.zeros(5, dtype=torch.float64, device=self.ranks.device)
        for groups in self.held_out:
            scores = self.forward(self.model, to_device(groups, self.ranks.device))
            total += torch.stack([value.double() for value in scores])
        for groups in self.idle:
            self.forward(self.model, to_device(groups, self.ranks.device))
        return Sums(*self.ranks.total(total).tolist()).means()

    def is_due(self, late: bool) -> bool:
        """Whether it is time for a checkpoint, by the first rank's clock where all of them write it."""
        return self.ranks.first_has(late) if self.is_sharded else late

    def save(self) -> None:
        """Write a checkpoint; all ranks have the same state, and the first one writes, or each its part."""
        values = [getattr(self.sums, name) for name in Sums.__slots__]
        state = {"sums": values, "tokens": self.tokens, "skipped": self.skipped, "in_a_row": self.in_a_row}
        what = (self.checkpoints, self.step, self.model, self.optimisers, state, self.recipe.average, self.recipe.every)
        if self.is_sharded:
            save_parts(*what, self.ranks)
        elif self.ranks.is_first:
            save_checkpoint(*what)

    def must_stop(self) -> bool:
        """Whether any rank was told to stop; all have to leave the step together."""
        if self.ranks.count == 1:
            return self.stopped
        flag = torch.tensor(float(self.stopped), device=self.ranks.device)
        return bool(self.ranks.total(flag).item())

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM: what is under way of a step is given up before its next micro-batch."""
        self.stopped = True
