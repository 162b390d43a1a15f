"""The device that models run on, and its memory."""

import gc
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch import Tensor

from embedome.common.errors import UserError

# Tokens of a batch at most. On a CPU larger ones fall out of the caches (docs/performance.md).
TOKEN_BUDGET = {"cpu": 4096, "cuda": 65536}
# Of errors that are no `torch.OutOfMemoryError`: of the host, the CUDA runtime, and cuBLAS where it makes its handle.
NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_ALLOC_FAILED")


def use_device(device: str) -> torch.device:
    """Give a device that is there, rather than another one, and have torch compute on it as embedome needs.

    Raises
    ------
    UserError
        Says what torch sees, and where.
    """
    if device not in TOKEN_BUDGET:
        raise UserError(f"the device is {device!r}; expected {' or '.join(TOKEN_BUDGET)}")
    if device == "cuda" and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU only"
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
        raise UserError(
            f"a GPU was asked for, but torch {torch.__version__} ({built}) sees none on {socket.gethostname()} "
            f"(CUDA_VISIBLE_DEVICES: {visible}); see docs/cluster.md"
        )
    # Some containers set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE: products of float32 would have 10 bits of mantissa.
    torch.set_float32_matmul_precision("highest")
    # cuDNN's attention makes and keeps a graph for each shape, some 30 ms; nearly every batch is of another one.
    torch.backends.cuda.enable_cudnn_sdp(False)
    return torch.device(device)


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether torch, or NumPy, had no memory left, on a GPU or in the host."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in NO_MEMORY)


def copy_to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device; the host does not wait for what the device is doing."""
    host = torch.from_numpy(values)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


@cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """A GPU's stream for copies to the host, beside which it goes on computing."""
    return torch.cuda.Stream(device)


class HostCopy:
    """A tensor on its way to the host, which need not wait for it, and nor need the device. On a CPU it is there.

    Parameters
    ----------
    tensor : torch.Tensor
    """

    def __init__(self, tensor: Tensor) -> None:
        self.event: torch.cuda.Event | None = None
        self.host = tensor
        if tensor.device.type == "cuda":
            stream = copy_stream(tensor.device)
            stream.wait_stream(torch.cuda.current_stream(tensor.device))
            self.host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            with torch.cuda.stream(stream):
                self.host.copy_(tensor, non_blocking=True)
                self.event = stream.record_event()
            # Its memory is for no other tensor before the copy is made.
            tensor.record_stream(stream)

    def wait(self) -> Tensor:
        """The tensor in the host's memory, once it is there."""
        if self.event is not None:
            self.event.synchronize()
        return self.host


def free_memory() -> None:
    """Give back what torch keeps of a GPU's memory without using it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def room_for(what: str, remedy: str) -> Iterator[None]:
    """Where memory runs out in the block, say what did not fit and what to do.

    Raises
    ------
    UserError
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or "out of memory"
        raise UserError(f"{what} does not fit into the memory of {socket.gethostname()} ({reason}); {remedy}") from None
