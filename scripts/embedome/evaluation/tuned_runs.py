"""Adapters and a head trained together on a task, scored and kept as heads on frozen features are: the method lora."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from embedome.common.errors import UserError
from embedome.common.json_files import json_sha256
from embedome.evaluation.cost import Cost, embedding_cost
from embedome.evaluation.examples import ExampleSet
from embedome.evaluation.head_data import HeadData
from embedome.evaluation.head_recipes import RECIPES, features_of
from embedome.evaluation.results import summarise
from embedome.evaluation.runs import Run, do_run, find_run, task_identity
from embedome.evaluation.settings import LORA, EvaluateSettings
from embedome.evaluation.tasks import Task
from embedome.evaluation.tuned import TunedFit, TuneSettings, seen_features
from embedome.models.directory import Model, empty_model, model_identity

# Passes over all proteins that an epoch takes at most: forward, and backward twice that.
PASSES = 3


@dataclass(frozen=True)
class TunedTask:
    """A task on which a model is trained by adapters.

    Parameters
    ----------
    model : Path
        Model directory.
    task : Task
    examples : ExampleSet
    digests : mapping of str to str
        SHA-256 of the files that were read.
    settings : EvaluateSettings
    tune : TuneSettings
    """

    model: Path
    task: Task
    examples: ExampleSet
    digests: Mapping[str, str]
    settings: EvaluateSettings
    tune: TuneSettings

    @cached_property
    def shape(self) -> Model:
        """The model without weights."""
        return empty_model(self.model)

    def run(self, head: str, seed: int) -> Run:
        """Return what is trained with a head and a seed: on the last layer."""
        return Run(LORA, head, self.shape.encoder.n_layers, seed)

    def identity(self, head: str) -> dict[str, Any]:
        """Return what a result depends on, beside the seed."""
        settings = self.settings
        return {
            "model": json_sha256(model_identity(self.model)),
            "recipe": json_sha256([asdict(RECIPES[head]), asdict(self.tune), asdict(settings.policy)]),
            **task_identity(self.task, self.examples, self.digests, settings.threads, settings.device),
        }

    def labels(self, head: str) -> HeadData:
        """Return the labels of the residues that the model sees, without features."""
        level = features_of(head, self.task.level)
        return HeadData(seen_features(self.examples, level, self.settings.policy, self.shape), self.examples)

    def fit(self, head: str, seed: int, kept: Path) -> TunedFit:
        """Return adapters and a head, not yet trained; `kept` is as in `tuned.TunedFit`."""
        torch.set_num_threads(self.settings.threads)
        settings = self.settings
        return TunedFit(
            self.model, RECIPES[head], self.examples, settings.policy, self.tune, seed, settings.device, kept
        )

    def cost(self, runs: int) -> Cost:
        """Return what trainings take, about."""
        settings = self.settings
        once = embedding_cost(self.shape, settings.policy, self.examples.sequences, settings.device)
        return Cost(runs * once * (PASSES * self.tune.epochs + 1))


def trainable_heads(heads: Sequence[str]) -> list[str]:
    """Return those of the heads that can be trained together with a model.

    Raises
    ------
    UserError
        Where there is none.
    """
    found = [head for head in heads if head in RECIPES]
    if not found:
        possible = ", ".join(RECIPES)
        raise UserError(f"--head {heads[0]} is none that a model is trained with; expected one of {possible}")
    return found


def tuned_results(tuned: TunedTask, heads: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Train adapters with each head and seed, or find that it was done; return as `results.summarise`.

    Parameters
    ----------
    tuned : TunedTask
    heads : sequence of str
    folder : Path
        Of the method's runs.

    Raises
    ------
    UserError
        As `tuned.TunedFit` and `trainable_heads`.
    """
    results = []
    for head in trainable_heads(heads):
        identity, runs = tuned.identity(head), {}
        for seed in range(tuned.settings.seeds):
            run = tuned.run(head, seed)
            runs[run.name] = find_run(folder, run, identity) or train_once(tuned, run, identity, folder)
        results.append(summarise(tuned.labels(head), folder, head, run.layer, runs))
    return results


def train_once(tuned: TunedTask, run: Run, identity: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train adapters and a head, going on from where a killed run was, and score them."""
    kept = kept_file(folder, identity, run.seed)
    fit = tuned.fit(run.head, run.seed, kept)
    found = do_run(folder, run, identity, fit, tuned.task.metric)
    kept.unlink(missing_ok=True)
    return found


def kept_file(folder: Path, identity: Mapping[str, Any], seed: int) -> Path:
    """Return the file for what an epoch of a run has come to."""
    return folder / f"{json_sha256([dict(identity), seed])[:16]}.epoch.pt"
