"""What all steps share: the device, sizes, models with random weights, and how a call is timed."""

import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from embedome.embedding.benchmark import gemm_peak
from embedome.engine.batch_layout import BatchLayout, lay_out
from embedome.engine.device import free_memory
from embedome.engine.engine import DTYPES, Engine
from embedome.engine.windows import Sequences
from embedome.models.create import make_untrained
from embedome.models.directory import load_model
from made_inputs import random_sequences

Row = dict[str, Any]

# The models that most is measured of, and residues at which their sequences are cut.
MODELS = {"esm1nv": 510, "esm2-650m": 1022, "ankh2-ext2": 4096}
SMALL = {"layers": 2, "hidden": 64, "heads": 4, "feed_forward": 128}
# Other models in full width, and only as deep as a step needs. No encoder needs its decoder.
SIZES = {
    "ankh2-ext2": {"decoder_layers": 1},
    "ankh2-shallow": {"layers": 2, "decoder_layers": 1},
    "prott5-xl": {"layers": 2, "decoder_layers": 1},
}
LIKE = {"ankh2-shallow": "ankh2-ext2"}
NEEDS_GPU: Row = {"what": "needs a GPU"}


class Bench:
    """Where the steps run, at what size.

    Parameters
    ----------
    device : torch.device
    small : bool
        Two layers of width 64, and few sequences: proves that the steps run.
    folder : pathlib.Path
        For models and files; models that are there are used.
    """

    def __init__(self, device: torch.device, small: bool, folder: Path) -> None:
        self.device, self.small, self.folder = device, small, folder
        self.engines: dict[str, Engine] = {}

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> str:
        """The type that is measured: what one runs on the device."""
        return "bfloat16" if self.on_gpu else "float32"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The same as torch has it."""
        return DTYPES[self.dtype]

    @cached_property
    def peak(self) -> float:
        """Floating-point operations per second of a large matrix product in this type."""
        return gemm_peak(self.device, self.torch_dtype, self.size(1.0, 0.1))

    def size(self, full: Any, small: Any) -> Any:
        """One of two sizes."""
        return small if self.small else full

    def model(self, name: str) -> Path:
        """A model directory with random weights, which is made once."""
        directory = self.folder / name
        if not directory.exists():
            sizes = SMALL if self.small else SIZES.get(name, {})
            make = partial(make_untrained, directory, name, LIKE.get(name, name), sizes, 0)
            try:
                # A core takes half a minute to draw a billion numbers, a GPU no time.
                with self.device:
                    make()
            except Exception:  # nothing can be measured without it, and the host can do it too
                make()
        return directory

    def new_engine(self, name: str, **options: Any) -> Engine:
        """An engine that a step may change, with these options of `Engine`."""
        return Engine(load_model(self.model(name)), device=self.device.type, dtype=self.dtype, **options)

    def engine(self, name: str) -> Engine:
        """An engine that is loaded once."""
        if name not in self.engines:
            self.engines[name] = self.new_engine(name)
        return self.engines[name]

    def part(self, name: str, count: int) -> list[bytes]:
        """Random sequences as a model gets them."""
        return random_sequences(count, MODELS[name])

    def wait(self) -> None:
        """Wait until the device is through with all that it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any]) -> float:
        """Seconds of a run, until the device is through."""
        self.wait()
        begin = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - begin

    def works(self) -> bool:
        """Give back what is not used, and say whether the device still answers: some errors end it for a process."""
        try:
            free_memory()
            return torch.ones(1, device=self.device).item() == 1
        except RuntimeError:
            return False

    def per_call(self, work: Callable[[], Any], seconds: float = 0.05) -> float:
        """Mean seconds of a call among many, one after another; on a GPU by its own clock."""
        work()
        count = max(3, min(1000, int(self.size(seconds, 0.0) / max(self.seconds(work), 1e-9))))
        if not self.on_gpu:
            return self.seconds(lambda: [work() for _ in range(count)]) / count
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / count


def layout_of(engine: Engine, sequences: list[bytes]) -> BatchLayout:
    """Sequences laid out as the engine lays them out."""
    return lay_out(Sequences.join(sequences), engine.tokenizer, engine.policy, engine.max_residues)


def equal_lengths(engine: Engine, tokens: int, length: int) -> list[bytes]:
    """Sequences of `length` tokens that are one batch of `tokens` tokens."""
    residues = length - engine.tokenizer.n_special
    return [b"M" * residues] * max(1, tokens // length)
