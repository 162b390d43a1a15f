"""A GPU without a GPU: torch's fake tensors on ``cuda``, which have shapes, dtypes and a device, and no numbers.

What torch's own fake tensors refuse (two devices in one operation, shapes that do not go together) fails, and so do
two dtypes in one product, and all that would make the host wait for the device: numbers read back, copies that are not
from or to pinned memory, what a copy brought before its event was waited for.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from embedome.models.encoders.passes import take
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda", 0)


class HostWaitsError(AssertionError):
    """The host waits for the device."""


class FakeStream:
    """A stream; nothing runs on it."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.waited = False

    def wait_stream(self, stream: "FakeStream") -> None:
        """What comes next on this one waits for what is on the other."""
        self.waited = True

    def record_event(self, event: "FakeEvent") -> "FakeEvent":
        """Mark this place."""
        return event


class FakeEvent:
    """An event: once it is waited for, all copies before it have arrived."""

    def __init__(self, blocking: bool = False) -> None:
        assert blocking, "whoever waits for this event would spin"
        self.copies = list(FakeCuda.current.arriving)

    def synchronize(self) -> None:
        """Wait."""
        for copy in self.copies:
            FakeCuda.current.arriving.pop(copy, None)


class Indexing(TorchFunctionMode):
    """What Python's side of torch does with a real device: indexing, moving, pinning, NumPy."""

    def __torch_function__(
        self, function: Callable, types: Any, arguments: tuple = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        if function in WAITING and arguments[0].device.type == "cuda":
            raise HostWaitsError(function.__name__)
        return REPLACED.get(function, function)(*arguments, **(options or {}))


def fake(tensor: Tensor) -> Tensor:
    """The tensor as a fake one, if it is real."""
    return tensor if isinstance(tensor, FakeTensor) else FakeCuda.current.mode.from_tensor(tensor)


def set_item(tensor: Tensor, index: Any, value: Any) -> None:
    """``tensor[index] = value``."""
    if isinstance(index, Tensor):
        torch.ops.aten.index_put_.default(fake(tensor), [index], value)
    else:
        copy(take(tensor, index), value)


def copy(tensor: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """``tensor.copy_(source)``."""
    return torch.ops.aten.copy_.default(tensor, source, non_blocking)


def move(tensor: Tensor, *arguments: Any, **options: Any) -> Tensor:
    """``tensor.to(...)``."""
    device, dtype, non_blocking, _ = torch._C._nn._parse_to(*arguments, **options)
    found = fake(tensor)
    wanted = found.device if device is None else CUDA if device.type == "cuda" else device
    if wanted == found.device and dtype in (None, found.dtype):
        return found
    pinned = FakeCuda.current.pinned.pop(id(tensor), None)
    if wanted != found.device:
        FakeCuda.current.copied(found.device, wanted, waits=not (non_blocking and pinned is not None))
        return torch.empty(found.shape, dtype=dtype or found.dtype, device=wanted)
    return torch.ops.aten._to_copy.default(found, dtype=dtype)


def pin(tensor: Tensor) -> Tensor:
    """``tensor.pin_memory()``."""
    FakeCuda.current.pinned[id(tensor)] = tensor
    return tensor


def numpy(tensor: Tensor, *, force: bool = False) -> np.ndarray:
    """``tensor.numpy()``: zeros, where the tensor is a fake one in the host's memory."""
    if not isinstance(tensor, FakeTensor):
        return REAL_NUMPY(tensor)
    if tensor.device.type != "cpu":
        raise HostWaitsError("numpy()")
    FakeCuda.current.check_arrived([tensor])
    return np.zeros(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


# Of a tensor on the device, these need its numbers.
WAITING = {Tensor.nonzero, torch.nonzero, Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.masked_select}
# Operations whose floating-point arguments have one dtype on a real device; fake tensors do not look.
ONE_DTYPE = {
    *("linear", "mm", "addmm", "bmm", "_addmm_activation", "scaled_dot_product_attention"),
    *("layer_norm", "native_layer_norm", "rms_norm", "index_put_"),
}
REAL_NUMPY = Tensor.numpy
REPLACED = {
    Tensor.__getitem__: take,
    Tensor.__setitem__: set_item,
    Tensor.copy_: copy,
    Tensor.to: move,
    Tensor.pin_memory: pin,
    Tensor.numpy: numpy,
}


class Watch(TorchDispatchMode):
    """Counts what runs, and fails where the host would wait."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: tuple = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        state, options = FakeCuda.current, dict(options or {})
        name, given = (
            operation.overloadpacket.__name__,
            [each for each in tree_leaves(arguments) if isinstance(each, Tensor)],
        )
        on_device = any(each.device.type == "cuda" for each in given)
        if on_device and name == "_local_scalar_dense":
            raise HostWaitsError(name)
        if name in ONE_DTYPE and len(dtypes := {each.dtype for each in given if each.is_floating_point()}) > 1:
            raise TypeError(f"{name} of {dtypes}")
        if name == "copy_":
            self.check_copy(*given, options.get("non_blocking") or arguments[2:3] == (True,))
        elif not name.startswith(("empty", "detach")):
            state.check_arrived(given)
        options.pop("pin_memory", None)
        found = operation(*arguments, **options)
        if on_device:
            state.operations[name] += 1
        if given and isinstance(found, Tensor) and found.device.type != given[0].device.type:
            state.copied(given[0].device, found.device, waits=True)
        return found

    def check_copy(self, target: Tensor, source: Tensor, non_blocking: bool) -> None:
        """Note a copy between devices, or fail."""
        state = FakeCuda.current
        if target.device.type != source.device.type:
            state.copied(source.device, target.device, waits=not non_blocking)
            if target.device.type == "cpu":
                state.arriving[target.untyped_storage()._cdata] = target


class FakeCuda:
    """What is known of the device while the context is entered.

    Attributes
    ----------
    operations : Counter
        What ran on it, by name.
    copies : Counter
        Copies between host and device, such as ``"cpu to cuda"``, with ``", waited for"`` where the host waits.
    """

    current: "FakeCuda"

    def __init__(self, free: int = 80 << 30, capability: tuple[int, int] = (9, 0)) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.operations: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.arriving: dict[int, Tensor] = {}
        self.pinned: dict[int, Tensor] = {}
        self.free, self.capability = free, capability

    def copied(self, source: torch.device, target: torch.device, *, waits: bool) -> None:
        """Count a copy; one to the host that is waited for is an error."""
        self.copies[f"{source.type} to {target.type}{', waited for' if waits else ''}"] += 1
        if waits and target.type == "cpu":
            raise HostWaitsError(f"{source.type} to {target.type}")

    def check_arrived(self, tensors: list[Tensor]) -> None:
        """Fail where something is read that is still on its way."""
        for tensor in tensors:
            if tensor.device.type == "cpu" and tensor.untyped_storage()._cdata in self.arriving:
                raise HostWaitsError("read before its event was waited for")

    @contextmanager
    def entered(self) -> Iterator["FakeCuda"]:
        """Run what is in the block on the fake device; ``cuda`` is the device that `engine.device` gives."""
        FakeCuda.current = self
        patches = {
            "torch.cuda.is_available": lambda: True,
            "torch.cuda.device_count": lambda: 1,
            "torch.cuda.Stream": FakeStream,
            "torch.cuda.Event": FakeEvent,
            "torch.cuda.current_stream": FakeStream,
            "torch.cuda.mem_get_info": lambda device: (self.free, 80 << 30),
            "torch.cuda.get_device_capability": lambda device: self.capability,
            "torch.cuda.get_device_name": lambda device: "a fake GPU",
            "embedome.engine.device.open_gpu": lambda index=None: CUDA,
            "embedome.engine.device.copy_stream": FakeStream,
        }
        with ExitStack() as stack:
            for name, replacement in patches.items():
                stack.enter_context(mock.patch(name, replacement))
            stack.enter_context(mock.patch("torch.cuda.stream", return_value=ExitStack()))
            stack.enter_context(mock.patch("torch.Tensor.record_stream", return_value=None))
            for mode in (self.mode, Watch(), Indexing()):
                stack.enter_context(mode)
            yield self
