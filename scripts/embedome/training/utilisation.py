"""How much of a device training uses: operations of a step, and those of a large matrix product in the same time."""

import time

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from embedome.training.device_batch import DeviceBatch

# Rows of the square matrices, and how often they are multiplied.
SIZE, TIMES = {"cpu": 1024, "cuda": 8192}, 3


@torch.no_grad()
def step_operations(model: nn.Module, batch: DeviceBatch) -> int:
    """Count the floating-point operations of a micro-batch, forward and backward.

    Those of matrix products and attention, counted in a forward pass; the backward pass has twice as many (Kaplan et
    al. 2020, arXiv:2001.08361, section 2.1). Attention to what comes before counts as attention to all.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    batch : DeviceBatch
    """
    from torch.utils.flop_counter import FlopCounterMode

    # Fused attention on CPUs is not counted; in its parts it is.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(batch)
    return 3 * counter.get_total_flops()


def peak_rate(device: torch.device) -> float:
    """Measure the operations per second of a large matrix product: float32 on CPUs, bfloat16 on GPUs."""
    size = SIZE[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    seconds = []
    for _ in range(TIMES + 1):
        wait_for(device)
        begin = time.monotonic()
        matrix @ matrix
        wait_for(device)
        seconds.append(time.monotonic() - begin)
    # The first one warms up.
    return 2 * size**3 / min(seconds[1:])


def wait_for(device: torch.device) -> None:
    """Wait until a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
