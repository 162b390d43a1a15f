"""A model that is trained together with a head, by adapters: features are computed again in each step.

The encoder runs on proteins without padding, in groups of one length (`encoders.grouped`); the head gets what frozen
features would be.
Shapes: n proteins, L residues, D dimension.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedome.common.atomic_files import atomic_path
from embedome.common.errors import UserError
from embedome.engine.batch_layout import DeviceLayout, lay_out
from embedome.engine.windows import LongPolicy, Sequences
from embedome.evaluation.baselines import used_residues
from embedome.evaluation.examples import ExampleSet
from embedome.evaluation.features import Features
from embedome.evaluation.fit import Reached, TorchFit
from embedome.evaluation.head_data import Chunk, HeadData
from embedome.evaluation.head_recipes import HeadRecipe, features_of
from embedome.evaluation.lora import PROTBENCH, adapt, matrices_of
from embedome.evaluation.tasks import RESIDUE, TRAIN
from embedome.models.adapters import AdapterSettings, LowRank
from embedome.models.directory import Model, load_model, read_config
from embedome.training.checkpoints import writing
from embedome.training.schedules import Linear

log = logging.getLogger(__name__)

# Tokens that go through the model at once, with their graph.
MICRO_TOKENS = 4_096


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """How adapters and their head are trained.

    Parameters
    ----------
    adapter : AdapterSettings
    targets : tuple of str
        Last names of the modules that are adapted; empty for `lora.TARGETS`.
    rate : float
        The largest learning rate: it rises over the first tenth of all steps, and falls to zero in a straight line.
    epochs : int
        The weights of the best one by validation are taken.
    batch : int
        Proteins of a step.
    """

    # Rate, epochs and batch are those of protbench's example, as are rank, alpha, dropout and targets. Its warm-up of
    # 1,000 steps is more than a small task has: a tenth of all, an own choice.
    adapter: AdapterSettings = PROTBENCH
    targets: tuple[str, ...] = ()
    rate: float = 1e-3
    epochs: int = 5
    batch: int = 16

    def __post_init__(self) -> None:
        for name, value in (("rank", self.adapter.rank), ("epochs", self.epochs), ("batch", self.batch)):
            if value < 1:
                raise UserError(f"--{name} is {value}; expected 1 or more")
        for name, number in (("alpha", self.adapter.alpha), ("rate", self.rate)):
            if not 0 < number < float("inf"):
                raise UserError(f"--{name} is {number}; expected more than 0")
        if not 0 <= self.adapter.dropout < 1:
            raise UserError(f"--dropout is {self.adapter.dropout}; expected 0 or more, and less than 1")

    def recipe(self, head: HeadRecipe, proteins: int) -> HeadRecipe:
        """Return how a head is trained together with a model on this many proteins: the module is its own."""
        steps = self.epochs * -(-proteins // self.batch)
        return replace(
            head,
            lr=self.rate,
            batch=self.batch,
            epochs=self.epochs,
            decoupled=True,
            weight_decay=0.0,
            schedule=Linear(peak=self.rate, warm_up=max(1, steps // 10), steps=steps),
            clip=1.0,
            loss_tokens=None,
            patience=None,
            best=True,
        )


def seen_features(examples: ExampleSet, level: str, policy: LongPolicy, shape: Model) -> Features:
    """Return what is known of features before they are computed: residues that the model sees; no matrix.

    Raises
    ------
    UserError
        For windows.
    """
    if policy.name == "window":
        raise UserError("adapters are not trained on windows; truncate long proteins, or leave them out")
    counts = used_residues(Sequences.join(list(examples.sequences)), policy, policy.longest(shape.max_residues))
    dimension = shape.encoder.dimension
    return Features(level, dimension, counts, np.zeros(len(counts), np.int64), np.empty((0, dimension), np.float16))


@dataclass(frozen=True)
class TunedData(HeadData):
    """Labels of a task, and features by a model as it is at the time.

    Parameters
    ----------
    model : Model
    policy : LongPolicy
        That does not cut windows.
    device : torch.device
    """

    model: Model
    policy: LongPolicy
    device: torch.device

    def micro_batches(
        self, indices: np.ndarray, edge: int = 0, alone: bool = False
    ) -> Iterator[list[tuple[np.ndarray, Chunk]]]:
        """As `HeadData.micro_batches`: what has been through the model at once shares a graph."""
        order = indices[np.argsort(self.features.counts[indices], kind="stable")]
        ends = np.cumsum(self.features.counts[order] + self.model.tokenizer.n_special)
        for mine in np.split(order, np.flatnonzero(np.diff((ends - 1) // MICRO_TOKENS)) + 1):
            states = self.encode(mine)
            groups = [slice(place, place + 1) for place in range(len(mine))] if alone else [slice(None)]
            yield [(mine[group], self.as_chunk(mine[group], states[group], edge)) for group in groups]

    def chunks(self, indices: np.ndarray, edge: int = 0, alone: bool = False) -> Iterator[tuple[np.ndarray, Chunk]]:
        """As `HeadData.chunks`."""
        for micro_batch in self.micro_batches(indices, edge, alone):
            yield from micro_batch

    def encode(self, indices: np.ndarray) -> list[Tensor]:
        """Return the hidden states of proteins' residues, float32 [L, D], or their mean, [1, D]."""
        tokenizer = self.model.tokenizer
        sequences = Sequences.join([self.examples.sequences[index] for index in indices])
        layout = lay_out(sequences, tokenizer, self.policy, self.policy.longest(self.model.max_residues))
        groups = list(DeviceLayout(layout, self.device).groups(0, len(layout.order)))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            found = self.model.encoder.stream([group.tokens.int() for group in groups])
        first, last = len(tokenizer.first), len(tokenizer.last)
        states: dict[int, Tensor] = {}
        for group, hidden in zip(groups, found, strict=True):
            inner = hidden[:, first : hidden.shape[1] - last].float()
            if self.features.level != RESIDUE:
                inner = inner.mean(1, keepdim=True)
            # Windows are whole proteins here, or their beginnings: one each, in the order of the proteins.
            states |= dict(zip(group.windows.tolist(), inner, strict=True))
        return [states[place] for place in range(len(indices))]

    def as_chunk(self, indices: np.ndarray, states: list[Tensor], edge: int) -> Chunk:
        """Put the states of proteins into one tensor."""
        rows = torch.tensor([len(each) for each in states], device=self.device)
        features = nn.utils.rnn.pad_sequence(states, batch_first=True)
        features = nn.functional.pad(features, (0, 0, 0, edge))
        return self.join_chunk(features, rows, indices)


class TunedFit(TorchFit):
    """Adapters of a model and a head, trained together.

    Parameters
    ----------
    directory : Path
        Model directory.
    head : HeadRecipe
    examples : ExampleSet
    policy : LongPolicy
    settings : TuneSettings
    seed : int
    device : str
    kept : Path, optional
        File for what an epoch has come to, from which a run that was killed goes on.

    Raises
    ------
    UserError
        As `directory.load_model` and `lora.find_targets`.
    """

    def __init__(
        self,
        directory: Path,
        head: HeadRecipe,
        examples: ExampleSet,
        policy: LongPolicy,
        settings: TuneSettings,
        seed: int,
        device: str = "cpu",
        kept: Path | None = None,
    ) -> None:
        model, config = load_model(directory), read_config(directory)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.adapters = adapt(model.encoder, config, settings.adapter, settings.targets)
        model.encoder.to(device)
        self.settings, self.kept = settings, kept
        features = seen_features(examples, features_of(head.name, examples.labelling.level), policy, model)
        data = TunedData(features, examples, model, policy, torch.device(device))
        super().__init__(settings.recipe(head, len(data.of_split(TRAIN))), data, seed, device)
        adapters = nn.ModuleList(self.adapters.values()).to(device)
        self.trained = nn.ModuleDict({"adapters": adapters, "head": self.head})

    def matrices(self) -> dict[str, LowRank]:
        """Return the adapters as they are written."""
        return matrices_of(self.adapters, self.settings.adapter)

    def resume(self, reached: Reached, optimiser: torch.optim.Optimizer) -> Reached:
        """Take up what the last epoch of an earlier run has come to.

        Raises
        ------
        UserError
            Where it cannot be read.
        """
        if self.kept is None or not self.kept.is_file():
            return reached
        try:
            state = torch.load(self.kept, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise UserError(f"{self.kept}: cannot be read ({error}); delete it and run again") from None
        self.trained.load_state_dict(state["trained"])
        optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_of_gpu"], self.device)
        log.info("going on after epoch %d of %d", state["epochs"], self.recipe.epochs)
        return Reached(state["weights"], state["epochs"], state["since"], state["best"])

    def keep(self, reached: Reached, optimiser: torch.optim.Optimizer) -> None:
        """Write what an epoch has come to, whole or not at all."""
        if self.kept is None:
            return
        state: dict[str, Any] = {
            "trained": self.trained.state_dict(),
            "optimiser": optimiser.state_dict(),
            "random": torch.get_rng_state(),
            "weights": reached.weights,
            "epochs": reached.epochs,
            "since": reached.since,
            "best": reached.best,
        }
        if self.device.type == "cuda":
            state["random_of_gpu"] = torch.cuda.get_rng_state(self.device)
        with atomic_path(self.kept) as temporary, writing(self.kept):
            torch.save(state, temporary)
