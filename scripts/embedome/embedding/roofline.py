"""Seconds of a batch on a GPU, predicted from kernels and bytes that are counted and from what the GPU can do at most.

**Predictions, not measured**: the shares of a data sheet's figures that kernels reach are assumptions. Trust ratios of
models and lengths more than levels, which may be off by a fifth.

Shapes: B sequences, L tokens, H heads, K dimension of a head; a matrix product makes [M, N] out of [M, K] and [K, N].
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from embedome.common.errors import UserError
from embedome.embedding.benchmark import fit_cost
from embedome.embedding.cost import CostModel
from embedome.engine.device import TOKEN_BUDGET
from embedome.models.encoders.grouped import StreamEncoder
from embedome.models.encoders.passes import ATTENTION, BIASED_ATTENTION, PASS, PRODUCT, Kernel, PassCounter

# Assumptions. Products are made in tiles of M x N, by whole waves of all processors, at K / (K + this) of the peak.
TILE = (128, 256)
FILLING = 192
# Attention without bias (FlashAttention 2) and with (torch's memory-efficient kernel): share of the products' peak, and
# tokens of a block, which is computed as a whole. The longer the sequence, the less of it is start and end.
ATTENTION_SHARE = {ATTENTION: 330 / 790, BIASED_ATTENTION: 150 / 790}
ATTENTION_BLOCK = {ATTENTION: 128, BIASED_ATTENTION: 64}
ATTENTION_FILLING = {ATTENTION: 64, BIASED_ATTENTION: 0}
# Seconds of a kernel at the least, between two, on the host to start one, and on the host for a batch.
SHORTEST_KERNEL, GAP = 2e-6, 1e-6
HOST_KERNEL, HOST_BATCH = 12e-6, 0.3e-3
# At which the cost is predicted, as far as the model takes them, and at its longest; attention's blocks divide none.
LENGTHS = (50, 100, 200, 300, 450, 750, 1500, 3000)
LAUNCHES = "launches of kernels"


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU: what its data sheet says, and what is assumed to be reached.

    Parameters
    ----------
    name : str
    peak : float
        Floating-point operations per second of dense bfloat16 products, by the data sheet.
    bandwidth : float
        Bytes per second of its memory, by the data sheet.
    memory : float
        Bytes.
    processors : int
        Streaming multiprocessors.
    products : float
        Operations per second that the largest matrix products reach; of this, shares of the peak are given.
    passes : float
        Bytes per second, read and written, that passes over memory reach.
    """

    name: str
    peak: float
    bandwidth: float
    memory: float
    processors: int
    products: float
    passes: float


# Of the SXM modules, and of the L40S as the PCIe card that it is; figures with 2:4 sparsity halved. Sources: NVIDIA's
# data sheets "H200 Tensor Core GPU" (2024), "H100 Tensor Core GPU" (2023), "A100 80GB" (2021), "L40S" (2023);
# processors by the white papers of Hopper, Ampere and Ada. What is reached is assumed: of an H200 others report 790
# TFLOP/s of a large product in bfloat16, and 4.3 TB/s of a copy, of which 3.7 are taken for passes; of an A100 280
# TFLOP/s and 1.5 TB/s are taken, of the others the H200's shares, 80 and 77 %.
DEVICES = {
    device.name: device
    for device in (
        Device("H200", 989e12, 4.8e12, 141e9, 132, products=790e12, passes=3.7e12),
        Device("H100", 989e12, 3.35e12, 80e9, 132, products=790e12, passes=2.6e12),
        Device("A100", 312e12, 2.04e12, 80e9, 108, products=280e12, passes=1.5e12),
        Device("L40S", 362e12, 0.864e12, 48e9, 142, products=290e12, passes=0.66e12),
    )
}
DEFAULT_DEVICE = "H200"


def find_device(name: str) -> Device:
    """Find the row of a GPU, by its name in any case.

    Raises
    ------
    UserError
        Where there is none; lists the names.
    """
    found = DEVICES.get(name.upper())
    if found is None:
        raise UserError(
            f"no GPU is called {name!r}; expected one of {', '.join(DEVICES)}, or measure yours with `embedome bench`"
        )
    return found


@dataclass(frozen=True, slots=True)
class BatchSeconds:
    """Predicted seconds of a batch.

    Parameters
    ----------
    kinds : mapping of str to float
        Of the device, by kind of kernel.
    host : float
        To start all kernels; the device works meanwhile, and waits where this is longer.
    """

    kinds: Mapping[str, float]
    host: float

    @property
    def device(self) -> float:
        """Seconds of all kernels."""
        return sum(self.kinds.values())

    @property
    def total(self) -> float:
        """Seconds of the batch."""
        return max(self.device, self.host)

    @property
    def bound(self) -> str:
        """What holds it up: a kind of kernel, or starting them."""
        return LAUNCHES if self.host > self.device else max(self.kinds, key=lambda kind: self.kinds[kind])


def batch_seconds(kernels: Counter[Kernel], device: Device) -> BatchSeconds:
    """Predict the seconds of a batch's kernels."""
    kinds = dict.fromkeys((PRODUCT, ATTENTION, BIASED_ATTENTION, PASS), 0.0)
    for kernel, number in kernels.items():
        kinds[kernel.kind] += number * kernel_seconds(kernel, device)
    return BatchSeconds(kinds, HOST_BATCH + HOST_KERNEL * kernels.total())


def kernel_seconds(kernel: Kernel, device: Device) -> float:
    """Predict the seconds of a kernel and of the gap after it: of operations or of bytes, whichever takes longer."""
    moving = kernel.bytes / device.passes
    return GAP + max(SHORTEST_KERNEL, moving, computing_seconds(kernel, device))


def computing_seconds(kernel: Kernel, device: Device) -> float:
    """Predict the seconds of a kernel's operations."""
    if kernel.kind == PASS:
        return 0.0
    if kernel.kind == PRODUCT:
        rows, columns, inner = kernel.shape
        waves = math.ceil(math.ceil(rows / TILE[0]) * math.ceil(columns / TILE[1]) / device.processors)
        return waves * device.processors * 2 * TILE[0] * TILE[1] * (inner + FILLING) / device.products
    length, block, filling = kernel.shape[2], ATTENTION_BLOCK[kernel.kind], ATTENTION_FILLING[kernel.kind]
    whole = math.ceil(length / block) * block
    computed = kernel.operations * (whole / length) ** 2
    return computed / (ATTENTION_SHARE[kernel.kind] * device.products * whole / (whole + filling))


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is predicted of a model on a GPU.

    Parameters
    ----------
    cost : CostModel
    batch : BatchSeconds
        Of a batch of typical sequences.
    """

    cost: CostModel
    batch: BatchSeconds


def predict(
    encoder: StreamEncoder, device: Device, longest: int | None, typical: int, *, fused: bool = False
) -> Prediction:
    """Predict the cost of sequences of an encoder in bfloat16, in full batches of one length each.

    Special tokens, and what is not the device's (reading, writing, starting), are left out.

    Parameters
    ----------
    encoder : StreamEncoder
        Also without weights.
    device : Device
    longest : int, optional
        As of `CostModel`.
    typical : int
        Residues of a typical sequence.
    fused : bool
        As of `passes.PassCounter`.

    Raises
    ------
    UserError
        Where its weights do not fit the GPU's memory.
    """
    check_fits(encoder, device)
    counter = PassCounter(encoder, torch.bfloat16, fused=fused)
    seconds = {
        length: full_batch(counter, length, device).total / sequences_at_once(length)
        for length in costed_lengths(longest)
    }
    fitted = fit_cost(seconds)
    cost = CostModel(fitted.linear, fitted.quadratic, longest)
    return Prediction(cost, full_batch(counter, min(typical, longest or typical), device))


def costed_lengths(longest: int | None) -> Sequence[int]:
    """Return the lengths at which the cost is predicted."""
    if longest is None:
        return LENGTHS
    return [*(length for length in LENGTHS if length < longest), longest]


def sequences_at_once(length: int) -> int:
    """Return the sequences of a full batch."""
    return max(1, TOKEN_BUDGET["cuda"] // length)


def full_batch(counter: PassCounter, length: int, device: Device) -> BatchSeconds:
    """Predict the seconds of a full batch of sequences of one length."""
    return batch_seconds(counter.count([(sequences_at_once(length), length)]), device)


def check_fits(encoder: StreamEncoder, device: Device) -> None:
    """Refuse a model whose weights do not fit a GPU in bfloat16.

    Raises
    ------
    UserError
    """
    needed = 2 * sum(parameter.numel() for parameter in encoder.parameters())
    if needed > device.memory:
        raise UserError(
            f"the model takes {needed / 1e9:.0f} GB in bfloat16, more than the {device.memory / 1e9:.0f} GB of an "
            f"{device.name}; name a larger GPU of {', '.join(DEVICES)}"
        )
