"""A run, in this process: settings and two stores of sequences in, a model directory out.

run.json          what the run is, by which it is known again: recipe, sizes, seed, data
checkpoints/      see `checkpoints`
training.jsonl    a line for some steps, and one for each validation
summary.json      what came of it, with the baselines
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedome import __version__
from embedome.common.errors import UserError, quote_value
from embedome.common.json_files import flatten_json, json_sha256, read_json, round_digits, write_json
from embedome.common.locks import try_lock
from embedome.common.process import keep_freed_memory
from embedome.models.checkpoint import weights_sha256
from embedome.models.create import make_config
from embedome.models.directory import PRETRAINING, check_model_directory
from embedome.training.alphabet import Alphabet
from embedome.training.batches import Batches
from embedome.training.beginning import INIT
from embedome.training.checkpoints import average, find_checkpoints, milestones
from embedome.training.memory import token_budget
from embedome.training.model import MaskedModel, TrainedModel
from embedome.training.model_files import new_model, read_model, save_model, whole_model
from embedome.training.objectives import SpanCorruption
from embedome.training.own_model import check_own_model
from embedome.training.ranks import Ranks, join_ranks
from embedome.training.recipes import Recipe, describe_recipe
from embedome.training.settings import PretrainSettings
from embedome.training.sharding import recompute, shard
from embedome.training.store import Store, open_store
from embedome.training.trainer import Trainer
from embedome.training.validation import Validation, measure_baselines

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

log = logging.getLogger(__name__)

RUN, SUMMARY, LOCK = "run.json", "summary.json", "lock"
# What else may lie in the folder of a run before it begins, beside temporary files.
BEFORE = {LOCK, INIT, "data", "model", "job.json"}
FORMAT = "embedome pretraining 1"


def train_run(
    train: str | os.PathLike,
    val: str | os.PathLike,
    run: str | os.PathLike,
    model: str | os.PathLike,
    settings: PretrainSettings,
) -> dict[str, Any]:
    """Train a model, or go on training it, and write it as a Hugging Face directory.

    Called by torchrun in several processes, these are the ranks of the run, each with a device of its own.

    Parameters
    ----------
    train, val : path
        Stores of sequences.
    run : path
        Folder of the run; an existing run is resumed.
    model : path
        The model directory to write.
    settings : PretrainSettings

    Returns
    -------
    dict
        What summary.json says.

    Raises
    ------
    UserError
        Where settings, data or folders are not those of the run that is there, or another process holds it; where
        sentinels do not suffice, or a step has fewer sequences than there are ranks.
    """
    keep_freed_memory()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with join_ranks(settings.device) as ranks:
        check_own_model(model)
        learnt, held_out, recipe = open_store(train), open_store(val), settings.make_recipe()
        identity = identify(recipe, settings, learnt, held_out)
        ranks.check_agreed("data or settings", json_sha256(identity))
        with held(Path(run), identity, ranks):
            return Pretraining(recipe, settings, learnt, held_out, Path(run), ranks).finish(model, identity)


def identify(recipe: Recipe, settings: PretrainSettings, train: Store, val: Store) -> dict[str, Any]:
    """Return what a run is, by which it is known again: all that its result depends on, but machine and ranks.

    Raises
    ------
    UserError
        Where there is no model to begin with.
    """
    if settings.init:
        check_model_directory(settings.init)
    return {
        "format": FORMAT,
        "name": settings.name,
        "recipe": describe_recipe(recipe),
        "seed": settings.seed,
        "init": settings.init and weights_sha256(settings.init),
        "data": {"train": train.identity(), "val": val.identity()},
    }


@contextmanager
def held(run: Path, identity: Mapping[str, Any], ranks: Ranks) -> Iterator[None]:
    """Hold the folder of a run while it is worked on; the first rank does so for all.

    Raises
    ------
    UserError
        Where it is another run's, or another process holds it.
    """
    if not ranks.is_first:
        ranks.wait()
        yield
        return
    check_run(run, identity)
    with try_lock(run / LOCK) as is_held:
        if not is_held:
            raise UserError(f"{run}: another process is training there; wait for it, then run again")
        if not (run / RUN).exists():
            write_json(run / RUN, identity)
        ranks.wait()
        yield


def check_run(run: Path, identity: Mapping[str, Any]) -> None:
    """Check that a folder is that of this run, or empty, or not there.

    Raises
    ------
    UserError
        Names the first setting that is another one.
    """
    check_new_run(run)
    if not (run / RUN).is_file():
        return
    before = flatten_json(read_json(run / RUN), ".")
    for key, value in flatten_json(identity, ".").items():
        if key not in before or before[key] != value:
            old = quote_value(before.get(key, "nothing"))
            raise UserError(
                f"{run}: a run with {key} {old}, now {quote_value(value)}; go on with the same, or name another folder"
            )


def check_new_run(run: Path) -> None:
    """Check that a folder is that of a run, of this one or another, or has nothing in it that is not a run's.

    Raises
    ------
    UserError
        Names what is in it.
    """
    if (run / RUN).is_file() or not run.exists():
        return
    names = os.listdir(run) if run.is_dir() else [run.name]
    if other := sorted(name for name in names if name not in BEFORE and not name.endswith(".tmp")):
        raise UserError(f"{run}: holds {other[0]!r}, which embedome did not make; name another folder")


class Pretraining:
    """A run in this process.

    Parameters
    ----------
    recipe : Recipe
    settings : PretrainSettings
    train, val : Store
    run : Path
    ranks : Ranks
    """

    def __init__(
        self, recipe: Recipe, settings: PretrainSettings, train: Store, val: Store, run: Path, ranks: Ranks
    ) -> None:
        self.recipe, self.settings, self.train, self.run, self.ranks = recipe, settings, train, run, ranks
        self.alphabet = Alphabet.of_model(recipe.model)
        self.config = make_config(recipe.model, recipe.sizes, {"seed": settings.seed})
        self.recipe = recipe = replace(recipe, residues=longest(recipe, self.config, self.alphabet))
        if isinstance(recipe.objective, SpanCorruption):
            recipe.objective.check(recipe.residues, self.alphabet)
        self.validation = Validation(val, recipe, self.alphabet)
        self.batches = Batches(train, recipe.objective, self.alphabet, recipe.phases, recipe.residues, settings.seed)
        for phase in self.batches.phases:
            check_step(phase.size, ranks.count)
        self.model, shards = self.begin(), ranks.count if settings.shard else 0
        if shards > 1:
            shard(self.model, ranks)
        elif shards:
            recompute(self.model)
        self.model.to(ranks.device)
        self.budget = ranks.least(token_budget(self.model, ranks.device, shards))

    def begin(self) -> TrainedModel:
        """Return the model as it is before the first step."""
        recipe, settings = self.recipe, self.settings
        if settings.init:
            return read_model(settings.init, self.config, recipe.dropout)
        model = new_model(recipe.model, self.config, recipe.dropout)
        if isinstance(model, MaskedModel):
            if recipe.like_frequencies:
                model.head.bias.data = log_frequencies(self.train, self.alphabet, len(model.head.bias))
            if recipe.sinusoids:
                table = model.encoder.positions.weight
                table.data = sinusoids(*table.shape) * float(model.words.detach().std())
        return model

    def finish(self, directory: str | os.PathLike, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Train to the end, and write the model."""
        size = sum(parameter.numel() for parameter in self.model.parameters())
        log.info("%s parameters, %s sequences, %s steps", f"{size:,}", f"{len(self.train):,}", f"{self.recipe.steps:,}")
        trainer = Trainer(self.model, self.recipe, self.batches, self.validation, self.run, self.ranks, self.budget)
        trainer.run()
        last = milestones(find_checkpoints(trainer.checkpoints), self.recipe.every)[-self.recipe.average :]
        if self.ranks.is_first or trainer.is_sharded:
            self.model.load_state_dict(average(last, self.model.state_dict()))
            # By the first rank alone, as all have the same weights; by all at once where each has a part of them.
            trainer.held_out, trainer.idle = self.validation.micro_batches(self.budget, trainer.width), []
            trainer.ranks = replace(self.ranks, rank=0, count=1)
            validation = trainer.evaluate()
        summary: dict[str, Any] = {}
        if self.ranks.is_first:
            summary = self.summarise(trainer, [each.step for each in last], size, validation)
            about = {"name": self.settings.name, "trained": True, PRETRAINING: {**summary, "data": identity["data"]}}
            model = whole_model(self.config, average(last)) if trainer.is_sharded else self.model.cpu()
            save_model(directory, self.recipe.model, self.recipe.sizes, model, about)
            write_json(self.run / SUMMARY, summary)
        self.ranks.wait()
        return summary

    def summarise(
        self, trainer: Trainer, averaged: list[int], size: int, validation: Mapping[str, float]
    ) -> dict[str, Any]:
        """Return what came of the run; without times, as the model's own bytes depend on it."""
        baselines = measure_baselines(self.train, self.validation, self.alphabet)
        return {
            "recipe": self.recipe.name,
            "parameters": size,
            "steps": self.recipe.steps,
            "tokens": trainer.tokens,
            "sequences": self.batches.first_row(self.recipe.steps),
            "epochs": round_digits(self.batches.epoch(self.recipe.steps)),
            "skipped_steps": trainer.skipped,
            "averaged": averaged,
            "validation": {name: round_digits(value) for name, value in validation.items()},
            "baselines": {name: round_digits(value) for name, value in asdict(baselines).items()},
            "versions": {"embedome": __version__, "torch": torch.__version__, "numpy": np.__version__},
        }


def longest(recipe: Recipe, config: "PreTrainedConfig", alphabet: Alphabet) -> int:
    """Residues of the longest sequence that recipe and positions have room for."""
    positions = getattr(config, "max_position_embeddings", None)
    return recipe.residues if positions is None else min(recipe.residues, positions - alphabet.n_special)


def check_step(sequences: int, ranks: int) -> None:
    """Check that a step has work for all ranks.

    Raises
    ------
    UserError
    """
    if sequences < ranks:
        raise UserError(f"a step has {sequences} sequences; expected as many as ranks, {ranks}, or more")


def log_frequencies(store: Store, alphabet: Alphabet, rows: int) -> torch.Tensor:
    """Logarithms of the tokens' frequencies in a store, one that does not occur counted once; float32 [V]."""
    counts = np.zeros(rows)
    np.add.at(counts, alphabet.table, store.letters)
    return torch.from_numpy(np.log(np.maximum(counts, 1) / max(1, counts.sum()))).float()


def sinusoids(positions: int, dimension: int) -> torch.Tensor:
    """Sines and cosines of positions at falling frequencies, of mean square 1 (Vaswani et al. 2017); float32 [P, D]."""
    angle = torch.arange(positions)[:, None] * 10_000.0 ** (-torch.arange(0, dimension, 2) / dimension)
    return 2**0.5 * torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dimension]
