"""What a GPU has to do for a batch: kernels, bytes moved and operations, counted without a GPU.

An encoder runs on fake tensors: they have a shape, a type and the device ``cuda``, but no data. Every operation of
torch that starts a kernel is one kernel here; views and allocations are none. Of what `fused.fuse_passes` compiles,
passes over memory that follow each other are one.

Shapes: B sequences, L tokens, H heads, K dimension of a head; a matrix product makes [M, N] out of [M, K] and [K, N].
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from embedome.models.encoders.fused import fuse_passes
from embedome.models.encoders.grouped import StreamEncoder

PRODUCT, ATTENTION = "matrix products", "attention"
BIASED_ATTENTION, PASS = "attention with bias", "passes over memory"

GPU = "cuda"
aten = torch.ops.aten
SDPA = "scaled_dot_product_attention"
# The first matrix among the arguments of each matrix product.
PRODUCTS = {"linear": 0, "mm": 0, "matmul": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "_addmm_activation": 1}
# Of a table they read as much as they write.
LOOK_UPS = {"embedding", "index", "index_select", "gather"}
# In place, but earlier values are not read.
OVERWRITING = {"copy_", "fill_", "zero_"}
ALLOCATING = {"empty", "empty_like", "new_empty", "empty_strided", "empty_permuted"}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel.

    Parameters
    ----------
    kind : str
        `PRODUCT`, `ATTENTION`, `BIASED_ATTENTION` or `PASS`.
    operations : int
        Floating-point operations of matrix products and attention; 0 of a pass.
    bytes : int
        Read and written: each tensor once, as if the caches held nothing from one kernel to the next.
    shape : tuple of int
        (M, N, K) of a product, (B, H, L, K) of attention, () of a pass.
    """

    kind: str
    operations: int
    bytes: int
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel in its place.

    Parameters
    ----------
    kernel : Kernel
    compiled : int
        Number of the call of a compiled function in which it is; 0 where it is in none.
    read, written : mapping of Memory to int
        Bytes.
    """

    kernel: Kernel
    compiled: int
    read: "Mapping[Memory, int]"
    written: "Mapping[Memory, int]"


class Memory(NamedTuple):
    """A stretch of memory, in which there may be several tensors."""

    address: int
    size: int


class PassCounter:
    """Counts the kernels of batches.

    Layers are alike: the first two are run, and what the second one adds is counted once for each of the others.

    Parameters
    ----------
    encoder : StreamEncoder
        On any device, torch's meta device among them; it is not changed.
    dtype : torch.dtype
        That it computes in.
    fused : bool
        After `fused.fuse_passes`.
    """

    def __init__(self, encoder: StreamEncoder, dtype: torch.dtype = torch.bfloat16, *, fused: bool = False) -> None:
        self.mode = FakeTensorMode()
        self.recorder = Recorder()
        self.layers = len(encoder.layers)
        shown = range(min(self.layers, 1), min(self.layers, 2) + 1)
        self.shallow = [self.fake(encoder, layers, dtype) for layers in shown]
        if fused:
            for shallow in self.shallow:
                fuse_passes(shallow, compiled=self.recorder.mark_compiled)

    def fake(self, encoder: StreamEncoder, layers: int, dtype: torch.dtype) -> StreamEncoder:
        """Copy the encoder with this many layers to fake tensors, its parameters of type `dtype`."""
        memo: dict[int, Any] = {}
        cut = copy.copy(encoder)
        cut._modules = {**encoder._modules, "layers": encoder.layers[:layers]}
        with self.mode:
            for module in cut.modules():
                for value in [*module.parameters(recurse=False), *vars(module).values()]:
                    if isinstance(value, nn.Parameter):
                        made = torch.empty(value.shape, dtype=dtype, device=GPU)
                        memo[id(value)] = nn.Parameter(made, requires_grad=False)
                    elif isinstance(value, Tensor):
                        memo[id(value)] = torch.empty(value.shape, dtype=value.dtype, device=GPU)
        return copy.deepcopy(cut, memo)

    def count(self, shapes: Sequence[tuple[int, int]]) -> Counter[Kernel]:
        """Count the kernels of a batch of groups of B sequences of L tokens, and how often each is started.

        The mean over each sequence's tokens is counted with them, as the engine takes it.
        """
        counts = [Counter(self.run(encoder, shapes)) for encoder in self.shallow]
        total = Counter(counts[-1])
        for kernel, number in (counts[-1] - counts[0]).items():
            total[kernel] += number * (self.layers - 2)
        return total

    @torch.inference_mode()
    def run(self, encoder: StreamEncoder, shapes: Sequence[tuple[int, int]]) -> list[Kernel]:
        """Run an encoder on a batch, and return its kernels in order."""
        with self.mode, self.recorder, AtenIndexing():
            tokens = [torch.empty(shape, dtype=torch.uint8, device=GPU) for shape in shapes]
            for hidden in encoder.stream([each.int() for each in tokens]):
                hidden.sum(1, dtype=torch.float32)
        return fuse(self.recorder.take())


def fuse(launches: Sequence[Launch]) -> list[Kernel]:
    """Return the kernels of launches, with passes over memory that a compiler makes one of as one.

    It reads what the passes read and none of them wrote before, and writes what is read afterwards.
    """
    kernels: list[Kernel] = []
    done = 0
    for (compiled, kind), group in groupby(launches, key=lambda launch: (launch.compiled, launch.kernel.kind)):
        members = list(group)
        done += len(members)
        if not compiled or kind != PASS:
            kernels += [member.kernel for member in members]
            continue
        wanted = {memory for launch in launches[done:] for memory in launch.read}
        read: Counter[Memory] = Counter()
        written: dict[Memory, int] = {}
        for member in members:
            read.update({memory: moved for memory, moved in member.read.items() if memory not in written})
            written |= member.written
        kept = sum(moved for memory, moved in written.items() if memory in wanted)
        kernels.append(Kernel(PASS, 0, sum(min(moved, memory.size) for memory, moved in read.items()) + kept))
    return kernels


class Recorder(TorchDispatchMode):
    """Records the kernels that operations on fake ``cuda`` tensors start."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []
        self.calls = self.compiled = 0
        # Kept, so that no two memories have one address.
        self.kept: list[Tensor] = []

    def take(self) -> list[Launch]:
        """Return what was recorded, and forget it."""
        found, self.launches, self.kept = self.launches, [], []
        return found

    def mark_compiled(self, function: Callable) -> Callable:
        """Return a function whose launches are known as those of a compiled one."""

        def call(*args: Any) -> Any:
            self.calls += 1
            self.compiled = self.calls
            try:
                return function(*args)
            finally:
                self.compiled = 0

        return call

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Run an operation, and record its kernel if it starts one."""
        kwargs = dict(kwargs or {})
        name = operation._schema.name.removeprefix("aten::")
        result = fake_attention(*args[:3]) if name == SDPA else operation(*args, **kwargs)
        made = [each for each in pytree.tree_leaves(result) if isinstance(each, Tensor)]
        given = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        read = list({id(each): each for each in given}.values())
        if starts_kernel(operation, name, read, made):
            if name in OVERWRITING:
                read = read[1:]
            kernel = describe(name, args, read, made)
            self.launches.append(Launch(kernel, self.compiled, by_memory(read), by_memory(made)))
            self.kept += [*read, *made]
        return result


def by_memory(tensors: Sequence[Tensor]) -> dict[Memory, int]:
    """Return the bytes that tensors cover of each memory, at most all of it."""
    found: Counter[Memory] = Counter()
    for tensor in tensors:
        memory = Memory(tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes())
        found[memory] = min(found[memory] + count_bytes(tensor), memory.size)
    return dict(found)


def fake_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return fake results of attention, [B, H, L, K]; in memory heads are adjacent, as CUDA's kernels write them."""
    batch, heads, length, _ = query.shape
    return query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)


def starts_kernel(operation: Any, name: str, read: Sequence[Tensor], made: Sequence[Tensor]) -> bool:
    """Return whether an operation starts a kernel: it does not if it only allocates, views, or copies to the device."""
    if name in ALLOCATING or not made or made[0].device.type != GPU:
        return False
    if any(each.device.type != GPU and each.ndim for each in read):
        return False
    return operation._schema.is_mutable or not any(same_memory(made[0], each) for each in read)


def describe(name: str, args: tuple, read: Sequence[Tensor], made: Sequence[Tensor]) -> Kernel:
    """Describe the kernel of an operation."""
    written = sum(map(count_bytes, made))
    moved = written + sum(map(count_bytes, read))
    if name in PRODUCTS:
        inner, columns = args[PRODUCTS[name]].shape[-1], made[0].shape[-1]
        rows = made[0].numel() // columns
        return Kernel(PRODUCT, 2 * rows * columns * inner, moved, (rows, columns, inner))
    if name == SDPA:
        batch, heads, length, width = args[0].shape
        work = 4 * batch * heads * length * args[1].shape[2] * width
        return Kernel(BIASED_ATTENTION if len(read) > 3 else ATTENTION, work, moved, (batch, heads, length, width))
    if name in LOOK_UPS:
        moved = 2 * written + sum(count_bytes(each) for each in read if not each.is_floating_point())
    return Kernel(PASS, 0, moved)


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are views of the same memory."""
    return one.untyped_storage()._cdata == other.untyped_storage()._cdata


def count_bytes(tensor: Tensor) -> int:
    """Return the bytes of memory that a tensor covers; what is repeated in it counts once."""
    numbers = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numbers *= size if stride else 1
    return min(numbers * tensor.element_size(), tensor.untyped_storage().nbytes())


class AtenIndexing(TorchFunctionMode):
    """Indexing by operations that fake tensors know; torch's own asks for a device that a build for the CPU lacks."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        """Run a function, or index."""
        if function is Tensor.__getitem__:
            return take(*args)
        if function is Tensor.__setitem__:
            tensor, index, values = args
            aten.copy_(take(tensor, index), values)
            return None
        return function(*args, **(kwargs or {}))


def take(tensor: Tensor, index: Any) -> Tensor:
    """Return ``tensor[index]``, of whole numbers, slices, None, an ellipsis and at most one tensor."""
    index = index if isinstance(index, tuple) else (index,)
    if any(each is Ellipsis for each in index):
        place = next(number for number, each in enumerate(index) if each is Ellipsis)
        named = sum(each is not None for each in index) - 1
        index = (*index[:place], *[slice(None)] * (tensor.ndim - named), *index[place + 1 :])
    axis = 0
    for each in index:
        if isinstance(each, int):
            tensor = tensor.select(axis, each)
            continue
        if each is None:
            tensor = tensor.unsqueeze(axis)
        elif isinstance(each, Tensor):
            tensor = aten.index(tensor, [None] * axis + [each])
        else:
            tensor = aten.slice(tensor, axis, each.start, each.stop, each.step or 1)
        axis += 1
    return tensor
