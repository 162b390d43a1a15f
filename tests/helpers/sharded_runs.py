"""Small runs of models that are split over their ranks, and of the same ones that are not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from embedome.common.errors import UserError
from embedome.training import run, sharding, trainer
from embedome.training.model import TrainedModel
from embedome.training.ranks import Ranks
from embedome.training.sharding import own_part
from helpers.training_runs import train_as_rank

SIZES = {"layers": 2, "hidden": 64, "heads": 4, "feed_forward": 96}
# Enough steps for a rate that is not that of warm-up alone.
STEPS = 8


def changes_of(recipe: str) -> dict[str, Any]:
    """What a small run of a recipe has of its own."""
    positions = {} if recipe == "ankh2-ext2" else {"positions": 100}
    return {"recipe": recipe, "steps": STEPS, "sizes": {**SIZES, **positions}}


def stop_as_rank(rank: int, ranks: int, port: int, data: Path, folder: Path, changes: dict[str, Any]) -> None:
    """A rank's part of a run that is told to stop after five steps; only the last one is told."""
    must_stop = trainer.Trainer.must_stop

    def told(self: trainer.Trainer) -> bool:
        self.stopped = self.step == 5 and rank == ranks - 1
        return must_stop(self)

    trainer.Trainer.must_stop = told
    train_as_rank(rank, ranks, port, data, folder, changes)


def cut_as_rank(rank: int, ranks: int, port: int, data: Path, folder: Path, changes: dict[str, Any]) -> None:
    """A rank's part of a run with several micro-batches in each step."""
    run.token_budget = lambda model, device, shards: 100
    train_as_rank(rank, ranks, port, data, folder, changes)


def count_as_rank(rank: int, ranks: int, port: int, data: Path, folder: Path, changes: dict[str, Any]) -> None:
    """A rank's part of a run; writes how many values it keeps of weights, gradients and optimiser state, by tensor.

    And how many layers have all of their weights, each time that a layer is computed.
    """
    finish, kept, layers = trainer.Trainer.finish_step, {"whole": []}, []
    split, compute_layer = run.shard, sharding.recomputed

    def split_model(model: TrainedModel, ranks: Ranks) -> None:
        layers.extend(model.layers())
        split(model, ranks)

    def watched(layer: torch.nn.Module, compute: Callable[..., torch.Tensor], *inputs: Any) -> torch.Tensor:
        kept["whole"].append(sum(not sharding.is_sharded(each) for each in layers))
        return compute_layer(layer, compute, *inputs)

    run.shard, sharding.recomputed = split_model, watched

    def counted(self: trainer.Trainer, scores: torch.Tensor) -> None:
        kept["weights"] = {name: own_part(each).numel() for name, each in self.model.named_parameters()}
        kept["gradients"] = [own_part(each.grad).numel() for each in self.parameters]
        finish(self, scores)
        states = [state for each in self.optimisers for state in each.state.values()]
        kept["states"] = [
            own_part(value).numel() for state in states for value in state.values() if isinstance(value, torch.Tensor)
        ]

    trainer.Trainer.finish_step = counted
    train_as_rank(rank, ranks, port, data, folder, changes)
    (folder / f"kept-{rank}.json").write_text(json.dumps(kept))


def fill_disk_as_rank(rank: int, ranks: int, port: int, data: Path, folder: Path, changes: dict[str, Any]) -> None:
    """A rank's part of a run whose second rank has no room for its fourth checkpoint; what each is told is kept."""
    import resource

    save, limits = trainer.save_parts, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_full_disk(folder: Path, step: int, *rest: Any) -> None:
        if step == 4 and rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            save(folder, step, *rest)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    trainer.save_parts = save_on_full_disk
    try:
        train_as_rank(rank, ranks, port, data, folder, changes)
    except (UserError, OSError) as error:
        (folder / f"told-{rank}").write_text(str(error))
