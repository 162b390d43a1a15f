"""Checkpoints: written whole or not at all, the last ones kept, found again, averaged.

A checkpoint is a folder of its run, ``step-NNNNNNNN``, with the weights in float32 under the module's own names
(``weights.safetensors``), the optimisers' state (``optimisers.pt``), and ``state.json``: the step, counts, and what
identifies the run. Of a model that is split over its ranks, weights and state are folders, ``weights`` and
``optimisers`` (`sharded_checkpoints`). Either kind is read whether the model is split or not. Optimisers' states are
kept for the last two alone; weights as long as they may be averaged.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from embedome.common.atomic_files import atomic_directory, find_temporaries
from embedome.common.errors import UserError, cut, first_line
from embedome.common.json_files import json_text, read_json
from embedome.training.sharded_checkpoints import load_states, read_parts, read_states, state_tensors, write_parts

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from embedome.training.ranks import Ranks

WEIGHTS, OPTIMISERS, STATE = "weights.safetensors", "optimisers.pt", "state.json"
WEIGHT_PARTS, OPTIMISER_PARTS = "weights", "optimisers"
NAME = re.compile(r"step-(\d{8})")
# Of which a run can go on: one, and one more in case that one cannot be read.
RESUMABLE = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk.

    Parameters
    ----------
    path : Path
    step : int
        Steps done.
    """

    path: Path
    step: int

    @property
    def can_resume(self) -> bool:
        """Whether a run can go on from it."""
        return (self.path / OPTIMISERS).is_file() or (self.path / OPTIMISER_PARTS).is_dir()

    def state(self) -> dict[str, Any]:
        """Return what state.json says."""
        return read_json(self.path / STATE)

    def weights(self, like: "Mapping[str, Tensor]" = MappingProxyType({})) -> "dict[str, Tensor]":
        """Return the weights, by the module's names, whole or split as those of a module are.

        Raises
        ------
        UserError
            Where the file is missing or damaged.
        """
        from safetensors.torch import load_file

        from embedome.training.sharding import split_like

        if (folder := self.path / WEIGHT_PARTS).is_dir():
            with reading(folder):
                return read_parts(folder, like.get)
        with reading(self.path / WEIGHTS):
            found = load_file(self.path / WEIGHTS)
        return {name: split_like(found.pop(name), like.get(name, tensor)) for name, tensor in dict(found).items()}

    def restore(self, model: "nn.Module", optimisers: "Sequence[Optimizer]") -> None:
        """Give model and optimisers the checkpoint's state.

        Raises
        ------
        UserError
            Where a file is missing or damaged.
        """
        import torch

        model.load_state_dict(self.weights(model.state_dict()))
        if (folder := self.path / OPTIMISER_PARTS).is_dir():
            with reading(folder):
                states = read_states(folder, optimisers)
        else:
            with reading(self.path / OPTIMISERS):
                found = torch.load(self.path / OPTIMISERS, map_location="cpu", weights_only=True)
            states = [each["state"] for each in found]
        load_states(optimisers, states)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Have one line say that tensors could not be read.

    Raises
    ------
    UserError
        Names the path, and what the library said.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete the folder and run again") from None


def find_checkpoints(folder: str | os.PathLike) -> list[Checkpoint]:
    """Return the checkpoints of a run, the first one first."""
    folder = Path(folder)
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [Checkpoint(folder / name, int(match[1])) for name in names if (match := NAME.fullmatch(name))]


def last_checkpoint(folder: str | os.PathLike) -> Checkpoint | None:
    """Return the last checkpoint that a run can go on from."""
    return next((each for each in reversed(find_checkpoints(folder)) if each.can_resume), None)


def save_checkpoint(
    folder: str | os.PathLike,
    step: int,
    model: "nn.Module",
    optimisers: "Sequence[Optimizer]",
    state: Mapping[str, Any],
    keep: int,
    every: int,
) -> None:
    """Write a checkpoint, and remove those that are no longer needed.

    Parameters
    ----------
    folder : path
        Of the run's checkpoints.
    step : int
        Steps done.
    model : torch.nn.Module
    optimisers : sequence of torch.optim.Optimizer
    state : mapping
        What else is to be known again.
    keep, every : int
        Weights stay of the last `keep` checkpoints whose step is a multiple of `every`.

    Raises
    ------
    UserError, OSError
        Where the disk is full; earlier checkpoints stay.
    """
    import torch
    from safetensors.torch import save_file

    path = Path(folder) / f"step-{step:08d}"
    with atomic_directory(path, check=lambda path: None) as temporary, writing(path):
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, temporary / WEIGHTS)
        torch.save([optimiser.state_dict() for optimiser in optimisers], temporary / OPTIMISERS)
        (temporary / STATE).write_text(json_text({"step": step, **state}), encoding="utf-8")
    remove_old(Path(folder), keep, every)


def save_parts(
    folder: str | os.PathLike,
    step: int,
    model: "nn.Module",
    optimisers: "Sequence[Optimizer]",
    state: Mapping[str, Any],
    keep: int,
    every: int,
    ranks: "Ranks",
) -> None:
    """Do what `save_checkpoint` does of a model that is split over its ranks, all of which write their parts at once.

    The folder gets its name when all of them are done.

    Parameters
    ----------
    folder, step, model, optimisers, state, keep, every
        As of `save_checkpoint`.
    ranks : Ranks

    Raises
    ------
    UserError, OSError
        In all ranks, where one has no room; earlier checkpoints stay.
    """
    path = Path(folder) / f"step-{step:08d}"
    with ExitStack() as stack:
        own = stack.enter_context(atomic_directory(path, check=lambda path: None)) if ranks.is_first else None
        temporary = ranks.first_has(own)
        with writing(path):
            write_parts(temporary / WEIGHT_PARTS, model.state_dict())
            write_parts(temporary / OPTIMISER_PARTS, state_tensors(optimisers))
        if ranks.is_first:
            (temporary / STATE).write_text(json_text({"step": step, **state}), encoding="utf-8")
    if ranks.is_first:
        remove_old(Path(folder), keep, every)
    ranks.wait()


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Have one line say that tensors could not be written: libraries raise errors of their own on a full disk.

    Raises
    ------
    UserError
        Names the path, and what the library said.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        what = cut(first_line(error))
        raise UserError(
            f"{path}: cannot be written ({what}); free some space and run again, finished work is kept"
        ) from None


def remove_old(folder: Path, keep: int, every: int) -> None:
    """Remove checkpoints that are no longer needed, and what writers left that were killed."""
    found = find_checkpoints(folder)
    kept = [*milestones(found, every)[-keep:], *found[-RESUMABLE:]]
    for old in found:
        if old not in kept:
            shutil.rmtree(old.path)
        elif old not in found[-RESUMABLE:]:
            (old.path / OPTIMISERS).unlink(missing_ok=True)
            shutil.rmtree(old.path / OPTIMISER_PARTS, ignore_errors=True)
    for stale in find_temporaries(folder, "step-????????"):
        shutil.rmtree(stale, ignore_errors=True)


def milestones(checkpoints: Sequence[Checkpoint], every: int) -> list[Checkpoint]:
    """Those whose step is a multiple of `every`, and the last one."""
    return [each for each in checkpoints if each.step % every == 0 or each == checkpoints[-1]]


def average(
    checkpoints: Sequence[Checkpoint], like: "Mapping[str, Tensor]" = MappingProxyType({})
) -> "dict[str, Tensor]":
    """Return the arithmetic mean of checkpoints' weights, in float64 on the way; whole, or split as a module's are.

    Raises
    ------
    UserError
        Where there is none, one cannot be read, or they are of models of other shapes.
    """
    if not checkpoints:
        raise UserError("no checkpoint to average; expected one or more")
    sums = {name: tensor.double() for name, tensor in checkpoints[0].weights(like).items()}
    for each in checkpoints[1:]:
        weights = each.weights(like)
        if {name: tensor.shape for name, tensor in weights.items()} != {name: t.shape for name, t in sums.items()}:
            raise UserError(f"{each.path}: its tensors are not those of {checkpoints[0].path}; average one run's")
        for name, tensor in weights.items():
            sums[name] += tensor
    return {name: (total / len(checkpoints)).float() for name, total in sums.items()}
