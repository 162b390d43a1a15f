"""The device that models run on, and its memory."""

import gc
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from embedome.common.errors import UserError, first_line
from embedome.common.locks import try_lock

log = logging.getLogger(__name__)

# Tokens of a batch at most. On a CPU larger ones fall out of the caches (docs/performance.md).
TOKEN_BUDGET = {"cpu": 4096, "cuda": 65536}
# Of errors that are no `torch.OutOfMemoryError`: of the host, of CUDA's runtime and driver, of Triton, and of cuBLAS
# where it has no room for its handle.
NO_MEMORY = ("can't allocate memory", "out of memory", "_alloc_failed", "cublas_status_not_initialized")
# The least compute capability that multiplies bfloat16; older GPUs emulate it.
BFLOAT16_CAPABILITY = (8, 0)
# Lengths change with every batch, and blocks of memory with them: segments that grow are not left half empty.
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
# What a first operation says, and what to do.
REMEDIES = {
    "no kernel image": "install a torch that is built for it, or ask for another GPU",
    "busy or unavailable": "another process has it for itself (compute mode exclusive), or its MIG slice is gone; ask "
    "for a GPU of your own",
}


def use_device(device: str, index: int | None = None) -> torch.device:
    """Return the device, never another one in its place, and have torch compute on it as embedome needs.

    Parameters
    ----------
    device : str
    index : int, optional
        Which GPU, where a launcher deals them out; else one that no other process of embedome has.

    Raises
    ------
    UserError
        Says what torch sees, where, and what to do.
    """
    if device not in TOKEN_BUDGET:
        raise UserError(f"the device is {device!r}; expected {' or '.join(TOKEN_BUDGET)}")
    # Some containers set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE: products of float32 would have 10 bits of mantissa.
    torch.set_float32_matmul_precision("highest")
    # cuDNN's attention makes and keeps a graph for each shape, some 30 ms; nearly every batch is of another one.
    torch.backends.cuda.enable_cudnn_sdp(False)
    return open_gpu(index) if device == "cuda" else torch.device(device)


@cache
def open_gpu(index: int | None = None) -> torch.device:
    """Take a GPU, and see that it computes; the same one for this process. `index` is as in `use_device`.

    Raises
    ------
    UserError
        As `use_device`.
    """
    os.environ.setdefault(*ALLOCATOR)
    if not torch.cuda.is_available():
        raise UserError(f"a GPU was asked for, but {describe_torch()}; see docs/cluster.md")
    index = claim_gpu(torch.cuda.device_count()) if index is None else index
    torch.cuda.set_device(index)
    device = torch.device("cuda", index)
    try:
        torch.zeros(1, device=device).add_(1)
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        reason = first_line(error).rstrip(".")
        raise UserError(f"{describe_gpu(device)} cannot be used: {reason}; {find_remedy(error)}") from None
    return device


def count_gpus() -> int:
    """Return the number of GPUs that this process sees, and say it where they are several."""
    count = torch.cuda.device_count()
    if count > 1:
        log.info("%d GPUs are visible (CUDA_VISIBLE_DEVICES): each embeds parts of its own", count)
    return count


def describe_torch() -> str:
    """Say why torch has no GPU: how it was built, what the driver says, and what is visible."""
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU only"
    reason = ""
    if torch.version.cuda:
        # The driver's complaint, such as that it is too old, is a warning elsewhere.
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            reason = f" ({first_line(error).rstrip('.')})"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    return (
        f"torch {torch.__version__} ({built}) sees none on {socket.gethostname()}{reason} "
        f"(CUDA_VISIBLE_DEVICES: {visible})"
    )


# Holds the lock of this process's GPU until the process ends.
claims = ExitStack()


def claim_gpu(count: int) -> int:
    """Return the first of the visible GPUs that no other process on this host has claimed; a shared one if all are.

    Slurm assigns a job its own GPUs. Local jobs of Snakemake see all of them.
    """
    if count == 1:
        return 0
    folder = Path(tempfile.gettempdir()) / f"embedome-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for index in range(count):
        with suppress(OSError):
            lock = folder / f"{torch.cuda.get_device_properties(index).uuid}.lock"
            if claims.enter_context(try_lock(lock)):
                return index
    shared = os.getpid() % count
    log.warning("all %d GPUs are in use by other jobs; this one shares GPU %d, and both are slower", count, shared)
    return shared


def describe_gpu(device: torch.device) -> str:
    """Return a GPU's name, its compute capability, and the architectures that torch is built for."""
    major, minor = torch.cuda.get_device_capability(device)
    built = ", ".join(torch.cuda.get_arch_list())
    return (
        f"{torch.cuda.get_device_name(device)} on {socket.gethostname()} (compute capability {major}.{minor}; "
        f"torch {torch.__version__} is built for {built})"
    )


def find_remedy(error: RuntimeError) -> str:
    """Say what to do about an error of a GPU's first operation."""
    if is_out_of_memory(error):
        return "its memory is taken by other processes; ask for a GPU of your own"
    found = (remedy for words, remedy in REMEDIES.items() if words in str(error))
    return next(found, "see docs/cluster.md")


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether a GPU multiplies bfloat16 itself, rather than emulating it."""
    return torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY


def unused_memory(device: torch.device) -> int:
    """Return the bytes of a GPU that can be allocated: what is free, and what torch keeps without using it."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Return whether torch, or NumPy, had no memory left, on a GPU or in the host."""
    message = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in message for words in NO_MEMORY)


def copy_to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device; the host does not wait for what the device is doing."""
    host = torch.from_numpy(values)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


@cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return a GPU's stream for copies to the host, beside which it goes on computing."""
    return torch.cuda.Stream(device)


class HostCopy:
    """A device tensor being copied to the host asynchronously. On a CPU it is available at once.

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
                # Whoever waits for it sleeps, and leaves the core to other threads.
                self.event = stream.record_event(torch.cuda.Event(blocking=True))
            # Its memory is reused only after the copy.
            tensor.record_stream(stream)

    def wait(self) -> Tensor:
        """Return the tensor in the host's memory, once it has arrived."""
        if self.event is not None:
            self.event.synchronize()
        return self.host


def free_memory() -> None:
    """Release what torch keeps of a GPU's memory without using it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def room_for(what: str, remedy: str) -> Iterator[None]:
    """Say what did not fit, and what to do, if memory runs out in the block.

    Raises
    ------
    UserError
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error) or "out of memory"
        raise UserError(f"{what} does not fit into the memory of {socket.gethostname()} ({reason}); {remedy}") from None
