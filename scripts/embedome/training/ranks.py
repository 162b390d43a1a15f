"""The processes of a run, as torchrun starts them: one for each device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from embedome.common.errors import UserError
from embedome.engine.device import use_device

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Ranks:
    """The process among those of the run.

    Parameters
    ----------
    rank, count : int
    device : torch.device
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of all processes' values, in place."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def least(self, value: int) -> int:
        """Return the least of all processes' values."""
        if self.count == 1:
            return value
        least = torch.tensor(value, device=self.device)
        distributed.all_reduce(least, distributed.ReduceOp.MIN)
        return int(least.item())

    def first_has(self, value: Value | None) -> Value:
        """Return the first process's value, in all of them."""
        values = [value]
        if self.count > 1:
            distributed.broadcast_object_list(values)
        return cast("Value", values[0])

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.count > 1:
            distributed.barrier()

    def check_agreed(self, what: str, digest: str) -> None:
        """Check that all processes have the same of something.

        Raises
        ------
        UserError
            In all processes, where one has another.
        """
        if self.count == 1:
            return
        found: list[str | None] = [None] * self.count
        distributed.all_gather_object(found, digest)
        if len(set(found)) > 1:
            other = next(rank for rank, each in enumerate(found) if each != found[0])
            raise UserError(f"rank {other} has other {what} than rank 0; give all ranks the same files and settings")

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model as one that averages gradients over all processes."""
        if self.count == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun has started, if it has; gloo on CPUs, NCCL on GPUs.

    Raises
    ------
    UserError
        Where the device is not there.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(0, 1, use_device(device))
        return
    own = use_device(device, int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), count, own)
    finally:
        distributed.destroy_process_group()
