"""Attention by back end, and products in 8 bits: what benchmarks/gpu.py measures apart from any model."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
)


@torch.inference_mode()
def attention(device: torch.device, dtype: torch.dtype, count: int) -> None:
    """Print the time of attention by back end, with a broadcast bias and without."""
    print(f"\nattention, 16 heads of 64, {count} sequences")
    for length in (256, 257, 510):
        query, key, value = (torch.randn(count, 16, length, 64, device=device, dtype=dtype) for _ in range(3))
        bias = torch.randn(1, 16, length, length, device=device, dtype=dtype)
        ways = [
            (label, backend.name, partial(attend, query, key, value, mask, backend))
            for label, mask in (("plain", None), ("bias", bias))
            for backend in BACKENDS
        ]
        ways.append(("bias", "flex_attention", partial(flex, query, key, value, bias)))
        ways.append(("plain", "jagged", partial(jagged, query, key, value)))
        for label, name, make in ways:
            try:
                print(f"  {length} {label:5} {name:20} {1e3 * best(make(), device):9.3f} ms")
            except Exception as error:  # whatever a back end or a compiler throws is a result here
                print(f"  {length} {label:5} {name:20} {type(error).__name__} {str(error).splitlines()[0][:80]}")


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, backend: SDPBackend
) -> Callable[[], None]:
    """Attention by one back end."""

    def work() -> None:
        with sdpa_kernel(backend):
            torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    return work


def flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> Callable[[], None]:
    """The same by flex_attention, compiled, with T5's bias as a change of each score."""
    from torch.nn.attention.flex_attention import flex_attention

    def add_bias(
        score: torch.Tensor, _: torch.Tensor, head: torch.Tensor, at: torch.Tensor, to: torch.Tensor
    ) -> torch.Tensor:
        return score + bias[0, head, at, to]

    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(query, key, value, score_mod=add_bias)


def jagged(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Callable[[], None]:
    """The same on as many tokens in sequences of several lengths, one jagged tensor."""
    tokens = len(query) * query.shape[2]
    ends = torch.linspace(0, tokens, len(query) + 1).pow(1.2)
    offsets = (ends / ends[-1] * tokens).long().to(query.device)
    flat = [each.transpose(1, 2).reshape(tokens, *each.shape[1::2]) for each in (query, key, value)]
    rows = [torch.nested.nested_tensor_from_jagged(each, offsets).transpose(1, 2) for each in flat]
    return lambda: torch.nn.functional.scaled_dot_product_attention(*rows)


@torch.inference_mode()
def eight_bits(device: torch.device, size: int) -> None:
    """Print the speed of a product of 8-bit floats beside bfloat16, and the cosine of both."""
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    scales = [each.abs().max().float() / torch.finfo(torch.float8_e4m3fn).max for each in (one, other)]
    small = [(each / scale).to(torch.float8_e4m3fn) for each, scale in zip((one, other), scales, strict=True)]

    def narrow() -> torch.Tensor:
        return torch._scaled_mm(small[0], small[1].T, scale_a=scales[0], scale_b=scales[1], out_dtype=torch.bfloat16)

    try:
        ratio = best(lambda: one @ other.T, device) / best(narrow, device)
        cosine = torch.cosine_similarity((one @ other.T).float().ravel(), narrow().float().ravel(), 0)
        print(f"\nmatrix product of {size}, float8 beside bfloat16: x {ratio:.2f}, cosine {cosine:.5f}")
    except (RuntimeError, NotImplementedError) as error:
        print(f"\nmatrix product of float8: {str(error).splitlines()[0][:100]}")


def best(work: Callable[[], None], device: torch.device, repeats: int = 10) -> float:
    """Seconds of the fastest of some runs."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
