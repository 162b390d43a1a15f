"""Tensors of a checkpoint as torch's distributed checkpoints: each rank writes its rows, and any number reads them.

torch's file ``.metadata`` is a pickle: what reads it trusts who wrote it.
What an optimiser keeps of parameter ``i`` is called ``k.i.name``, of the k-th optimiser.
"""

import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from embedome.common.errors import cut, first_line

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.optim import Optimizer

# Of an optimiser's state, what is not as a parameter's rows are.
WHOLE = ("step", "columns")


def write_parts(folder: str | os.PathLike, tensors: "Mapping[str, Tensor]") -> None:
    """Write tensors into a new folder; all ranks do so at once, each its own part.

    Raises
    ------
    RuntimeError
        In all ranks, where one could not.
    """
    from torch.distributed import checkpoint

    with plain_errors():
        checkpoint.save(dict(tensors), checkpoint_id=folder)


def read_parts(folder: str | os.PathLike, like: "Callable[[str], Tensor | None]") -> "dict[str, Tensor]":
    """Read the tensors of a folder, each split as another one is, or whole and on the CPU; any process by itself.

    Parameters
    ----------
    folder : path
    like : callable
        Gives the other one by the tensor's name, or None.

    Raises
    ------
    RuntimeError, OSError
        Where a file is missing or damaged.
    """
    from torch.distributed import checkpoint

    from embedome.training.sharding import empty_like

    with plain_errors(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        reader = checkpoint.FileSystemReader(folder)
        about = cast("Mapping[str, TensorStorageMetadata]", reader.read_metadata().state_dict_metadata)
        found = {name: empty_like(each.size, each.properties.dtype, like(name)) for name, each in about.items()}
        checkpoint.load(found, storage_reader=reader, no_dist=True)
    return found


@contextmanager
def plain_errors() -> Iterator[None]:
    """Have what torch raises of all ranks, no `Exception`, raised as a `RuntimeError` with the first one's line."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        first = next(iter(error.failures.values()), (error,))[0]
        raise RuntimeError(cut(first_line(first))) from None


def state_tensors(optimisers: "Sequence[Optimizer]") -> "dict[str, Tensor]":
    """Return what optimisers keep as tensors, split as their parameters are; numbers as tensors of integers."""
    import torch

    from embedome.training.sharding import as_split

    found = {}
    for number, optimiser in enumerate(optimisers):
        own = parameters_of(optimiser)
        for index, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value)
                found[f"{number}.{index}.{name}"] = tensor if name in WHOLE else as_split(tensor, own[index])
    return found


def read_states(folder: str | os.PathLike, optimisers: "Sequence[Optimizer]") -> list[dict[int, dict[str, Any]]]:
    """Read what `state_tensors` gave, of each optimiser by parameter and name, split as its parameters are.

    Raises
    ------
    RuntimeError, OSError
        As `read_parts`.
    """
    own = [parameters_of(optimiser) for optimiser in optimisers]

    def like(key: str) -> "Tensor | None":
        number, index, name = key.split(".")
        return None if name in WHOLE else own[int(number)][int(index)]

    states: list[dict[int, dict[str, Any]]] = [defaultdict(dict) for _ in optimisers]
    for key, value in read_parts(folder, like).items():
        number, index, name = key.split(".")
        states[int(number)][int(index)][name] = value if value.is_floating_point() else value.item()
    return states


def load_states(optimisers: "Sequence[Optimizer]", states: "Sequence[Mapping[int, Mapping[str, Any]]]") -> None:
    """Give optimisers what they kept, whole or split; whole tensors are split as parameters are."""
    from embedome.training.sharding import is_split, split_like

    for optimiser, state in zip(optimisers, states, strict=True):
        own = parameters_of(optimiser)
        split = {
            index: {
                name: value if name in WHOLE or is_split(value) else split_like(value, own[index])
                for name, value in values.items()
            }
            for index, values in state.items()
        }
        optimiser.load_state_dict({"state": split, "param_groups": optimiser.state_dict()["param_groups"]})


def parameters_of(optimiser: "Optimizer") -> "list[Tensor]":
    """Return an optimiser's parameters, by the numbers that its state has for them."""
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
