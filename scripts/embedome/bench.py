"""How fast a device is: at a large matrix product, and at embedding."""

import time

import torch

# Side of the matrices, as large as the products of a batch; and how long to multiply them.
GEMM_SIDE = {"cpu": 1024, "cuda": 8192}
GEMM_SECONDS = 0.3


def gemm_peak(device: torch.device, dtype: torch.dtype, seconds: float = GEMM_SECONDS) -> float:
    """Floating-point operations per second of a large matrix product: the best of the products made in `seconds`."""
    side = GEMM_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or best == float("inf"):
        begin = time.perf_counter()
        torch.matmul(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best
