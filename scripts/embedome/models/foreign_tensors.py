"""Checkpoints of other libraries: their tensors' names and shapes, and what they are in a Hugging Face class."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from embedome.common.errors import UserError, cut
from embedome.models.tensors import PLAIN_TYPES

# Names of tensors in a message.
MOST_NAMES = 10


@dataclass(frozen=True, slots=True)
class TensorName:
    """One tensor of a checkpoint.

    Parameters
    ----------
    name : str
        In the checkpoint, without the model's prefix.
    parts : tuple of str
        Names of the Hugging Face tensors that it is made of; several are stacked head by head.
    shape : tuple of int
        In the checkpoint.
    cut : int or None
        Dimension along which tensor parallelism cuts it (Shoeybi et al. 2019, arXiv:1909.08053, section 3).
    vocabulary : bool
        Whether its first dimension is the vocabulary, which a checkpoint may pad.
    copies : tuple of str
        Hugging Face tensors that are the same one.
    aliases : tuple of str
        Other names of it in the checkpoint.
    """

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    cut: int | None = None
    vocabulary: bool = False
    copies: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def module(
    name: str, parts: str | tuple[str, ...], shape: tuple[int, ...], cut: int | None = None
) -> Iterator[TensorName]:
    """Yield the weight and bias of a module."""
    parts = (parts,) if isinstance(parts, str) else parts
    yield TensorName(f"{name}.weight", tuple(f"{part}.weight" for part in parts), shape, cut)
    # The bias of a matrix that is cut along its inputs is added after the sum over ranks, so it is whole.
    yield TensorName(f"{name}.bias", tuple(f"{part}.bias" for part in parts), shape[:1], None if cut == 1 else cut)


def plain_names(source: str | os.PathLike, state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return tensors in float32 by names without the model's prefix, and that of a half-precision wrapper.

    Raises
    ------
    UserError
        Where one is not of plain floats, or two would have one name.
    """
    for name, tensor in state.items():
        if str(tensor.dtype).removeprefix("torch.") not in PLAIN_TYPES:
            raise UserError(
                f"{source}: {cut(name)} is of type {tensor.dtype}; expected one of {', '.join(PLAIN_TYPES)}"
            )
    plain = {name.removeprefix(prefix).removeprefix("module."): tensor.float() for name, tensor in state.items()}
    if len(plain) < len(state):
        twice = next(name for name in plain if sum(each.endswith(name) for each in state) > 1)
        raise UserError(f"{source}: {cut(twice)} is there twice, with {prefix} before it and without")
    return plain


def check_names(source: str | os.PathLike, like: str, rows: Sequence[TensorName], weights: dict[str, Tensor]) -> None:
    """Refuse missing, alien and misshapen tensors; cut the vocabulary's padding, drop second names."""
    for row in rows:
        for alias in row.aliases:
            # If the checkpoint has it, it must be the same tensor: the models share it.
            if alias in weights and not torch.equal(weights.pop(alias), weights.get(row.name, torch.empty(0))):
                raise UserError(f"{source}: {alias} is not {row.name}; expected one tensor under both names")
    names = {row.name for row in rows}
    missing, left_over = sorted(names - weights.keys()), sorted(weights.keys() - names)
    if missing or left_over:
        found = (("missing", missing), ("left over", left_over))
        lists = [f"{what}: {first_names(names)}" for what, names in found if names]
        raise UserError(f"{source}: not the tensors of {like}; {'; '.join(lists)}")
    for row in rows:
        if row.vocabulary and len(weights[row.name]) > row.shape[0]:
            weights[row.name] = weights[row.name][: row.shape[0]]
        if tuple(weights[row.name].shape) != row.shape:
            raise UserError(f"{source}: {row.name} has shape {tuple(weights[row.name].shape)}; expected {row.shape}")


def first_names(names: Sequence[str]) -> str:
    """Name the first of some names, and say how many more there are."""
    rest = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(cut, names[:MOST_NAMES])) + rest


def to_hugging_face(rows: Sequence[TensorName], weights: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Rename tensors; query, key and value are apart in Hugging Face."""
    tensors: dict[str, Tensor] = {}
    for row in rows:
        tensor = weights[row.name]
        if len(row.parts) > 1:
            by_head = tensor.unflatten(0, (heads, len(row.parts), -1))
            tensors |= {name: by_head[:, part].flatten(0, 1) for part, name in enumerate(row.parts)}
        else:
            # The bias of Blenderbot's output is a row.
            tensor = tensor[None] if row.parts == ("final_logits_bias",) else tensor
            tensors |= dict.fromkeys((*row.parts, *row.copies), tensor)
    return tensors
