"""A model whose weights, gradients and optimiser state are split over the ranks, by torch's FSDP2.

Each tensor is cut by rows, a part for each rank. A layer's weights are gathered while it is computed, forward and
backward, and its gradients are averaged and cut again at once. What a layer keeps for its backward pass is its input
alone; the rest is computed again there.
"""

from collections.abc import Callable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

from embedome.training.model import TrainedModel
from embedome.training.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

RUN = "run_with_own_weights"


def shard(model: TrainedModel, ranks: Ranks) -> None:
    """Split a model over the ranks, a layer after the other, each brought to the device for the time; in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(ranks.device.type, (ranks.count,))
    for layer in model.layers():
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        setattr(layer, RUN, MethodType(recomputed, layer))
        register_fsdp_forward_method(layer, RUN)
    # What is in no layer: tables, norms, head.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    model.run_layer = lambda compute, layer, *inputs: getattr(layer, RUN)(compute, *inputs)


def recompute(model: TrainedModel) -> None:
    """Have a model's layers keep their inputs alone for the backward pass."""
    model.run_layer = lambda compute, layer, *inputs: recomputed(layer, compute, *inputs)


def recomputed(layer: nn.Module, compute: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Compute a layer, and again in the backward pass, with the same dropout."""
    if not torch.is_grad_enabled():
        return compute(layer, *inputs)
    return checkpoint(compute, layer, *inputs, use_reentrant=False)


def is_split(tensor: Tensor) -> bool:
    """Whether a process has a part of a tensor's rows; asked so, as the class takes a second to import."""
    return hasattr(tensor, "device_mesh")


def is_sharded(model: nn.Module) -> bool:
    """Whether a model is split over the ranks."""
    return any(is_split(parameter) for parameter in model.parameters())


def own_part(tensor: Tensor) -> Tensor:
    """Return this process's rows of a tensor that is split, or a whole one; in the same memory."""
    return cast("DTensor", tensor).to_local() if is_split(tensor) else tensor


def split_like(values: Tensor, parameter: Tensor) -> Tensor:
    """Split a whole tensor as a parameter is, which may be whole; all processes have the values."""
    if not is_split(parameter):
        return values
    from torch.distributed.tensor import distribute_tensor

    part = cast("DTensor", parameter)
    return distribute_tensor(values.to(part.device), part.device_mesh, part.placements, src_data_rank=None)


def as_split(values: Tensor, parameter: Tensor) -> Tensor:
    """Return rows of this process as a tensor that is split as a parameter is, in the same memory."""
    if is_split(values) or not is_split(parameter):
        return values
    from torch.distributed.tensor import DTensor

    part = cast("DTensor", parameter)
    shape = torch.Size((len(part), *values.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(values, part.device_mesh, part.placements, shape=shape, stride=stride)


def empty_like(size: Sequence[int], dtype: torch.dtype, parameter: Tensor | None) -> Tensor:
    """Return a tensor to be filled, split as a parameter is; whole and on the CPU where that is, or there is none."""
    if parameter is None or not is_split(parameter):
        return torch.empty(tuple(size), dtype=dtype)
    from torch.distributed import tensor

    part = cast("DTensor", parameter)
    return tensor.empty(*size, dtype=dtype, device_mesh=part.device_mesh, placements=part.placements)


def mean_of_rows(values: Tensor, parameter: Tensor) -> Tensor:
    """Return the mean [1, B] over the rows of a matrix [A, B], given those that are here of a parameter's."""
    if not is_split(parameter):
        return values.mean(-2, keepdim=True)
    return total(values.sum(-2, keepdim=True), parameter) / parameter.shape[-2]


def mean_of_all(values: Tensor, parameter: Tensor) -> Tensor:
    """Return the mean over all values, given those that are here of a parameter's."""
    if not is_split(parameter):
        return values.mean()
    return total(values.sum(), parameter) / parameter.numel()


def total(values: Tensor, parameter: Tensor) -> Tensor:
    """Return the sum over the processes among which a parameter is split, in place."""
    distributed.all_reduce(values, group=cast("DTensor", parameter).device_mesh.get_group())
    return values


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of all gradients together.

    Of each that is split one process in turn has the whole for the time, so that the norm has the bits of one of whole
    gradients, at the traffic of half an all-reduce.
    """
    if not is_split(gradients[0]):
        return torch.nn.utils.get_total_norm(gradients)
    ranks = cast("DTensor", gradients[0]).device_mesh.size()
    norms = torch.zeros(len(gradients), device=gradients[0].device)
    for number, gradient in enumerate(gradients):
        if (whole := gather(gradient, number % ranks)) is not None:
            norms[number] = torch.linalg.vector_norm(whole)
    return torch.linalg.vector_norm(total(norms, gradients[0]))


def gather(tensor: Tensor, rank: int) -> Tensor | None:
    """Return a tensor that is split as a whole in the process of a rank; None in others."""
    mesh, own = cast("DTensor", tensor).device_mesh, own_part(tensor)
    # All parts but the last ones have as many rows.
    rows = -(-len(tensor) // mesh.size())
    part = own.new_zeros(rows, *own.shape[1:])
    part[: len(own)] = own
    parts = [torch.empty_like(part) for _ in range(mesh.size())] if mesh.get_local_rank() == rank else None
    distributed.gather(part, parts, group=mesh.get_group(), group_dst=rank)
    return None if parts is None else torch.cat(parts)[: len(tensor)]
