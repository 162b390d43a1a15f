"""Attention by back end, with a T5's bias as the engine makes it and without one."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from embedome.models.encoders.t5 import RelativeBias
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu_steps.bench import Bench, Row

# Sequences' tokens, of which 8 and 16 divide some, and some are 1 more than a multiple of 32 or of 128.
LENGTHS = (256, 510, 257, 129, 384, 191, 2049)
# Heads and their dimension; whether there is a bias.
SHAPES = {
    "ESM-1nv": (12, 64, False),
    "Ankh2": (16, 64, True),
    "ProtT5-XL": (32, 128, True),
}
BACKENDS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
)
TOKENS = 65536


@torch.inference_mode()
def attention(bench: Bench) -> Iterator[Row]:
    """Every back end at every length, then flex_attention and jagged tensors, which take long to compile."""
    lengths = bench.size(LENGTHS, (33,))
    for length in lengths:
        for model, shape in SHAPES.items():
            inputs, bias = make_inputs(bench, length, *shape)
            for backend in BACKENDS:
                yield timed(
                    bench, f"{model}, {length} tokens, {backend.name}", inputs, partial(attend, *inputs, bias, backend)
                )
    for length in lengths[:2]:
        inputs, _ = make_inputs(bench, length, *SHAPES["ESM-1nv"])
        yield timed(bench, f"ESM-1nv, {length} tokens in the mean, jagged", inputs, jagged(*inputs))
        inputs, bias = make_inputs(bench, length, *SHAPES["Ankh2"])
        yield timed(bench, f"Ankh2, {length} tokens, flex_attention", inputs, flex(bench, *inputs, bias))


def make_inputs(
    bench: Bench, length: int, heads: int, head: int, biased: bool
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Queries, keys and values as they come out of a layer, [B, H, L, K] over [B, L, 3, H, K]; and a bias."""
    count = bench.size(max(1, TOKENS // length), 2)
    qkv = torch.randn(count, length, 3, heads, head, device=bench.device, dtype=bench.torch_dtype)
    inputs = tuple(each.transpose(1, 2) for each in qkv.unbind(2))
    if not biased:
        return inputs, None
    bias = RelativeBias(heads, 64, 128)
    torch.nn.init.normal_(bias.table.weight)
    return inputs, bias.to(bench.device, bench.torch_dtype)(length)


def timed(bench: Bench, what: str, inputs: tuple[Tensor, ...], work: Callable[[], Tensor]) -> Row:
    """Time one way; that a back end, or a compiler, refuses is a result here."""
    count, heads, length, head = inputs[0].shape
    try:
        seconds = bench.per_call(work, 0.03)
    except Exception as error:
        return {"what": what, "not_there": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
    return {"what": what, "ms": 1e3 * seconds, "tflops": 4e-12 * count * heads * length**2 * head / seconds}


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, backend: SDPBackend) -> Tensor:
    """Attention by one back end."""
    with sdpa_kernel(backend):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def flex(bench: Bench, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Callable[[], Tensor]:
    """The same by flex_attention, compiled on a GPU, with the bias as a change of each score."""
    from torch.nn.attention.flex_attention import flex_attention

    def add_bias(score: Tensor, _: Tensor, head: Tensor, at: Tensor, to: Tensor) -> Tensor:
        return score + bias[0, head, at, to]

    work = torch.compile(flex_attention, dynamic=False) if bench.on_gpu else flex_attention
    return lambda: work(query, key, value, score_mod=add_bias)


def jagged(query: Tensor, key: Tensor, value: Tensor) -> Callable[[], Tensor]:
    """The same on as many tokens in sequences of several lengths, one jagged tensor."""
    tokens = len(query) * query.shape[2]
    ends = torch.linspace(0, tokens, len(query) + 1).pow(1.2)
    offsets = (ends / ends[-1] * tokens).long().to(query.device)
    flat = [each.transpose(1, 2).reshape(tokens, *each.shape[1::2]) for each in (query, key, value)]
    rows = [torch.nested.nested_tensor_from_jagged(each, offsets).transpose(1, 2) for each in flat]
    return lambda: functional.scaled_dot_product_attention(*rows)
