"""Parts of a layer done in fewer passes: rotary positions, GELU, a compiled layer, products in 8 bits."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from embedome.engine.batch_layout import BatchLayout
from embedome.engine.engine import Engine
from embedome.models.encoders.esm2 import Rotary, rotate
from torch import Tensor
from torch.nn import functional

from gpu_steps.batches import ONE, embed_layout, lengths_in_batches
from gpu_steps.bench import Bench, Row, layout_of

# Of a compiled encoder: layers but a T5's first are alike, and each is compiled once more for shapes that change.
MAX_GRAPHS = 8


def rotate_plainly(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """The formula as it is written down (Su et al. 2021, arXiv:2104.09864), of [B, L, H, 2R], in float32."""
    front, back = x.float().chunk(2, -1)
    return (x.float() * cosines + torch.cat((-back, front), -1) * sines).to(x.dtype)


@torch.inference_mode()
def rotary(bench: Bench) -> Iterator[Row]:
    """Queries and keys of ESM-2 650M turned: by the plain formula, by the library's, and by that one compiled."""
    heads, length = 20, bench.size(256, 16)
    shape = (bench.size(256, 2), length, 3, heads, 64)
    qkv = torch.randn(shape, device=bench.device, dtype=bench.torch_dtype)
    angles = Rotary(32)(length, bench.device)
    query, key, _ = qkv.unbind(2)

    def plain() -> Tensor:
        return torch.stack([rotate_plainly(each, *angles) for each in (query, key)], 2)

    def library() -> Tensor:
        return torch.stack([rotate(each, *angles) for each in (query, key)], 2)

    exact, moved = plain(), 2 * 2 * query.nbytes
    compiled = torch.compile(rotate_plainly, dynamic=True, backend=backend(bench))
    ways: dict[str, Callable[[], Tensor]] = {
        "plain formula": plain,
        "library": library,
        "plain formula, compiled": lambda: torch.stack([compiled(each, *angles) for each in (query, key)], 2),
    }
    for what, work in ways.items():
        difference = (work().float() - exact.float()).abs().max().item()
        seconds = bench.per_call(work)
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


def compiled(bench: Bench) -> Iterator[Row]:
    """The engine as it is, and with each layer compiled: what is cached by length stays outside."""
    from torch._dynamo.utils import counters

    for name, count in (("esm1nv", 20_000), ("esm2-650m", 1500)):
        engine = bench.new_engine(name)
        layout = layout_of(engine, bench.part(name, bench.size(count, 30)))
        residues = int(layout.used.sum())

        def embed(engine: Engine = engine, layout: BatchLayout = layout) -> None:
            with lengths_in_batches(engine, ONE):
                embed_layout(engine, layout)

        embed()
        yield {"what": f"{name} as it is", "residues_per_second": residues / bench.seconds(embed)}
        for index, layer in enumerate(engine.encoder.layers):
            engine.encoder.layers[index] = torch.compile(layer, dynamic=True, backend=backend(bench))
        counters.clear()
        first = bench.seconds(embed)
        graphs = counters["stats"]["unique_graphs"]
        row: Row = {
            "what": f"{name} compiled",
            "residues_per_second": residues / bench.seconds(embed),
            "graphs": graphs,
            "seconds_first": first,
        }
        if graphs > MAX_GRAPHS:
            row["broken"] = f"compiled {graphs} times; expected {MAX_GRAPHS} at the most, whatever the lengths"
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
