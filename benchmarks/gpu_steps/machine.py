"""The machine itself: what it is, its peak at matrix products, its bandwidths, and how long models take to be made."""

import os
import platform
import subprocess
from collections.abc import Iterator

import numpy
import pyarrow
import torch
import transformers
from embedome import __version__
from embedome.embedding.benchmark import gemm_peak
from embedome.engine.device import HostCopy
from embedome.engine.engine import DTYPES

from gpu_steps.bench import MODELS, NEEDS_GPU, Bench, Row
from gpu_steps.one_file import IDENTITY

DRIVER = "driver_version,power.limit,clocks.max.sm,clocks.max.memory,ecc.mode.current"


def environment(bench: Bench) -> Iterator[Row]:
    """Versions, processors, devices."""
    yield {
        "what": "software",
        "embedome": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        "pyarrow": pyarrow.__version__,
    }
    yield {"what": "host", "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    if not bench.on_gpu:
        yield NEEDS_GPU
        return
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        yield {
            "what": f"device {index}",
            "name": about.name,
            "capability": f"{about.major}.{about.minor}",
            "memory_gb": about.total_memory / 1e9,
            "multiprocessors": about.multi_processor_count,
        }
    try:
        command = ["nvidia-smi", f"--query-gpu={DRIVER}", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        yield {"what": f"nvidia-smi, {DRIVER}", "answer": answer.strip()}
    except (OSError, subprocess.SubprocessError) as error:
        yield {"what": "nvidia-smi", "answer": str(error)}


def peak(bench: Bench) -> Iterator[Row]:
    """Large products by type, and products in the shapes of layers, with their biases."""
    for name, dtype in DTYPES.items():
        found = gemm_peak(bench.device, dtype, bench.size(1.0, 0.05))
        yield {"what": f"large product, {name}", "tflops": found / 1e12}
    for wide, narrow in ((768, 3072), (1280, 5120), (1536, 3840)):
        for tokens in bench.size((2048, 8192, 65536), (64,)):
            x = torch.randn(tokens, wide, device=bench.device, dtype=bench.torch_dtype)
            weight = torch.randn(narrow, wide, device=bench.device, dtype=bench.torch_dtype)
            bias = torch.randn(narrow, device=bench.device, dtype=bench.torch_dtype)
            seconds = bench.per_call(lambda x=x, w=weight, b=bias: torch.nn.functional.linear(x, w, b))
            flops = 2 * tokens * wide * narrow / seconds
            yield {"what": f"linear, {tokens} x {wide} to {narrow}", "tflops": flops / 1e12, "ms": 1e3 * seconds}


def bandwidth(bench: Bench) -> Iterator[Row]:
    """Bytes per second on the device, and between it and the host."""
    count = bench.size(1 << 29, 1 << 16)
    one = torch.zeros(count, device=bench.device, dtype=torch.float16)
    other = torch.zeros_like(one)
    size = one.nbytes
    yield {"what": "copy, read and written", "gb_per_s": 2e-9 * size / bench.per_call(lambda: other.copy_(one))}
    added = bench.per_call(lambda: torch.add(one, other, out=other))
    yield {"what": "a + b, read and written", "gb_per_s": 3e-9 * size / added}
    if not bench.on_gpu:
        yield NEEDS_GPU
        return
    host = torch.zeros(count, dtype=torch.float16, pin_memory=True)
    for what, to, source in (("to the host, pinned", host, one), ("to the device, pinned", one, host)):
        seconds = bench.per_call(lambda to=to, source=source: to.copy_(source, non_blocking=True))
        yield {"what": what, "gb_per_s": 1e-9 * size / seconds}


def models(bench: Bench) -> Iterator[Row]:
    """Time to make each model, to read it for its digest, and to load it: none of this is in what is timed later."""
    for name in MODELS:
        made = bench.seconds(lambda name=name: bench.model(name))
        hashed = bench.seconds(lambda name=name: IDENTITY(bench.model(name)))
        loaded = bench.seconds(lambda name=name: bench.engine(name))
        engine = bench.engine(name)
        yield {
            "what": name,
            "parameters": sum(each.numel() for each in engine.encoder.parameters()),
            "seconds_made": made,
            "seconds_hashed": hashed,
            "seconds_loaded": loaded,
            "token_budget": engine.token_budget,
        }


def copies(bench: Bench) -> Iterator[Row]:
    """Per-residue embeddings of one batch after the other to the host, as the engine copies them."""
    if not bench.on_gpu:
        yield NEEDS_GPU
        return
    for dimension in (768, 1536):
        states = torch.zeros(65536, dimension, device=bench.device, dtype=torch.float16)

        def fetch(states: torch.Tensor = states) -> None:
            waiting = HostCopy(states)
            for _ in range(19):
                following = HostCopy(states)
                waiting.wait()
                waiting = following
            waiting.wait()

        fetch()
        seconds = bench.seconds(fetch) / 20
        yield {"what": f"65,536 vectors of {dimension}", "gb_per_s": 1e-9 * states.nbytes / seconds}
