"""Parts of a layer in fewer passes, and the engine so: rotary positions, GELU, compiled layers, products in 8 bits."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from embedome.engine.batch_layout import BatchLayout
from embedome.engine.engine import Engine
from embedome.engine.tolerances import tolerance
from embedome.models.encoders.esm2 import Rotary, rotate
from torch import Tensor
from torch.nn import functional

from gpu_steps.batches import ONE, OWN, embed_layout, lengths_in_batches
from gpu_steps.bench import NEEDS_GPU, Bench, Row, layout_of
from gpu_steps.precision import smallest_cosine

# Of a compiled encoder: layers but a T5's first are alike, and each is compiled once more for shapes that change.
MAX_GRAPHS = 8
# Sequences by model.
FUSED = {"esm2-650m": 3000, "esm1nv": 35_000, "ankh2-ext2": 1500}
COMPILED = {"esm1nv": 20_000, "esm2-650m": 1500}


def rotate_plainly(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """The formula as it is written down (Su et al. 2021, arXiv:2104.09864), of [T, H, 2R] by [T, 1, R], in float32."""
    front, back = x.float().chunk(2, -1)
    cosines, sines = (torch.cat((each, each), -1) for each in (cosines, sines))
    return (x.float() * cosines + torch.cat((-back, front), -1) * sines).to(x.dtype)


@torch.inference_mode()
def rotary(bench: Bench) -> Iterator[Row]:
    """Queries and keys of ESM-2 650M turned: by the plain formula, by the library's, and by that one compiled."""
    shape = torch.Size(bench.size((256, 256), (2, 16)))
    qkv = torch.randn(shape.numel(), 3, 20, 64, device=bench.device, dtype=bench.torch_dtype)
    angles = Rotary(32)([shape], bench.device)
    pair, (query, key, _) = qkv[:, :2], qkv.unbind(1)
    flat = [each[:, 0] for each in angles]
    exact = torch.stack([rotate_plainly(each, *flat) for each in (query, key)], 1).float()
    compiled = torch.compile(rotate, dynamic=True, backend=backend(bench))
    ways: dict[str, Callable[[], Tensor | list[Tensor]]] = {
        "plain formula": lambda: [rotate_plainly(each, *flat) for each in (query, key)],
        "library": lambda: rotate(pair, *angles),
        "library, compiled": lambda: compiled(pair, *angles),
    }
    for what, work in ways.items():
        found = work()
        found = found if isinstance(found, Tensor) else torch.stack(found, 1)
        difference = (found.float() - exact).abs().max().item()
        seconds = bench.per_call(work)
        moved = 2 * 2 * query.nbytes  # read and written
        yield {"what": what, "ms": 1e3 * seconds, "gb_per_s": 1e-9 * moved / seconds, "difference": difference}


@torch.inference_mode()
def gelu(bench: Bench) -> Iterator[Row]:
    """A layer's first product and GELU by tanh: one after the other, and in one call."""
    for wide, narrow in bench.size(((768, 3072), (1536, 6144)), ((64, 128),)):
        x = torch.randn(bench.size(65536, 64), wide, device=bench.device, dtype=bench.torch_dtype)
        weight = torch.randn(narrow, wide, device=bench.device, dtype=bench.torch_dtype) / wide**0.5
        bias = torch.randn(narrow, device=bench.device, dtype=bench.torch_dtype)
        exact = functional.gelu(functional.linear(x.float(), weight.float(), bias.float()), approximate="tanh")
        ways: dict[str, Callable[[], Tensor]] = {
            "product alone": partial(functional.linear, x, weight, bias),
            "product, then GELU": lambda x=x, w=weight, b=bias: functional.gelu(
                functional.linear(x, w, b), approximate="tanh"
            ),
            "GELU in the product": lambda x=x, w=weight, b=bias: torch._addmm_activation(b, x, w.T, use_gelu=True),
        }
        for what, work in ways.items():
            row: Row = {"what": f"{len(x):,} x {wide} to {narrow}, {what}"}
            if what != "product alone":
                row["difference"] = (work().float() - exact).abs().max().item()
            yield row | {"ms": 1e3 * bench.per_call(work)}


def fused(bench: Bench) -> Iterator[Row]:
    """The engine with fewer passes (`fused` of `Engine`) beside the engine as it is, and how far vectors are apart."""
    if not bench.on_gpu:
        yield NEEDS_GPU
        return
    for name, count in FUSED.items():
        layout = layout_of(bench.engine(name), bench.part(name, count))
        yield from beside(bench, name, layout, lambda name=name: bench.new_engine(name, fused=True), OWN)


def compiled(bench: Bench) -> Iterator[Row]:
    """The engine with each layer compiled beside the engine as it is: what is cached by length stays outside."""
    from torch._dynamo.utils import counters

    def make(name: str) -> Engine:
        engine = bench.new_engine(name)
        for index, layer in enumerate(engine.encoder.layers):
            engine.encoder.layers[index] = torch.compile(layer, dynamic=True, backend=backend(bench))
        return engine

    for name, count in COMPILED.items():
        counters.clear()
        layout = layout_of(bench.engine(name), bench.part(name, bench.size(count, 30)))
        for row in beside(bench, name, layout, partial(make, name), ONE):
            row["graphs"] = counters["stats"]["unique_graphs"]
            if row["graphs"] > MAX_GRAPHS:
                row["broken"] = f"compiled {row['graphs']} times; expected {MAX_GRAPHS} at the most"
            yield row


def beside(bench: Bench, name: str, layout: BatchLayout, make: Callable[[], Engine], way: str) -> Iterator[Row]:
    """Rates of the engine as it is and of another one, on the same batches, and the smallest cosine of both."""
    rates, vectors = [], []
    for engine in (bench.engine(name), make()):
        with lengths_in_batches(engine, way):
            first = bench.seconds(partial(embed_layout, engine, layout))
            begin = time.perf_counter()
            vectors.append(embed_layout(engine, layout)["mean"])
            rates.append(int(layout.used.sum()) / (time.perf_counter() - begin))
    row: Row = {
        "what": f"{name}, {len(layout.used):,} sequences",
        "residues_per_second": rates[1],
        "as_it_is": rates[0],
        "times": rates[1] / rates[0],
        "seconds_first": first,
        "cosine": smallest_cosine(*vectors),
    }
    if not row["cosine"] >= tolerance(bench.dtype, bench.engine(name).encoder.n_layers).cosine:
        row["broken"] = f"{name}: vectors are others"
    yield row


def backend(bench: Bench) -> str:
    """On a CPU layers are only traced: what is made of them there is not what this is about."""
    return "inductor" if bench.on_gpu else "aot_eager"


@torch.inference_mode()
def float8(bench: Bench) -> Iterator[Row]:
    """A product of 8-bit floats beside one in bfloat16, and the cosine of both."""
    size = bench.size(8192, 256)
    one, other = (torch.randn(size, size, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    scales = [each.abs().max().float() / torch.finfo(torch.float8_e4m3fn).max for each in (one, other)]
    small = [(each / scale).to(torch.float8_e4m3fn) for each, scale in zip((one, other), scales, strict=True)]

    def narrow() -> Tensor:
        return torch._scaled_mm(small[0], small[1].T, scale_a=scales[0], scale_b=scales[1], out_dtype=torch.bfloat16)

    what = f"product of {size}"
    try:
        ratio = bench.per_call(lambda: one @ other.T) / bench.per_call(narrow)
        cosine = torch.cosine_similarity((one @ other.T).float().ravel(), narrow().float().ravel(), 0).item()
        yield {"what": what, "times_bfloat16": ratio, "cosine": cosine}
    except (RuntimeError, NotImplementedError) as error:
        yield {"what": what, "not_there": str(error).splitlines()[0][:160]}
