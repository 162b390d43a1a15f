"""Kernels, bytes and operations of a batch, against sums by hand."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from embedome.models.architectures import ARCHITECTURES
from embedome.models.create import make_config
from embedome.models.encoders.flops import operations
from embedome.models.encoders.grouped import StreamEncoder
from embedome.models.encoders.passes import (
    ATTENTION,
    BIASED_ATTENTION,
    PASS,
    PRODUCT,
    AtenIndexing,
    Kernel,
    PassCounter,
)
from embedome.models.registry import REGISTRY
from torch import Tensor

# Two layers or more of: model dimension, heads, feed-forward dimension; and a batch of B sequences of L tokens.
D, H, F = 64, 4, 96
B, L = 3, 40
T = B * L
HALF = 2  # bytes of a bfloat16


def encoder_like(name: str, layers: int = 3) -> StreamEncoder:
    """An encoder without weights, of small sizes."""
    config = make_config(name, {"layers": layers, "hidden": D, "heads": H, "feed_forward": F}, {}).to_dict()
    with torch.device("meta"):
        return ARCHITECTURES[REGISTRY[name].model_type].encoder()(config)


def layer_of(name: str, *, fused: bool = False) -> Counter[Kernel]:
    """The kernels that one layer more is."""
    counts = [PassCounter(encoder_like(name, layers), fused=fused).count([(B, L)]) for layers in (3, 4)]
    assert not counts[0] - counts[1]
    return counts[1] - counts[0]


def product(columns: int, inner: int, *, bias: bool = True) -> Kernel:
    """Rows and matrix are read, and the result is written."""
    numbers = T * inner + inner * columns + T * columns + bias * columns
    return Kernel(PRODUCT, 2 * T * inner * columns, HALF * numbers, (T, columns, inner))


def passing(numbers: int) -> Kernel:
    return Kernel(PASS, 0, HALF * numbers)


def attention_of(kind: str = ATTENTION, bias: int = 0) -> Kernel:
    """Queries, keys and values are read, and the result is written."""
    return Kernel(kind, 4 * B * L * L * D, HALF * (4 * T * D + bias), (B, H, L, D // H))


NORM, ADD = passing(2 * T * D + 2 * D), passing(3 * T * D)
RMS_NORM = passing(2 * T * D + D)
# A sum that is read again, and the norm of it.
NORM_OF_SUM = passing(4 * T * D + 2 * D)
RMS_NORM_OF_SUM = passing(4 * T * D + D)


def test_a_layer_of_esm1nv() -> None:
    products = [product(3 * D, D), product(D, D), product(F, D), product(D, F)]
    gelu = passing(2 * T * F)
    assert layer_of("esm1nv") == Counter([NORM, NORM, ADD, ADD, gelu, attention_of(), *products])
    assert layer_of("esm1nv", fused=True) == Counter([NORM, NORM_OF_SUM, ADD, attention_of(), *products])


def test_a_layer_of_protbert() -> None:
    """Norms are of sums that are not read again."""
    products = [product(3 * D, D), product(D, D), product(F, D), product(D, F)]
    gelu = passing(2 * T * F)
    assert layer_of("protbert") == Counter([NORM, NORM, ADD, ADD, gelu, attention_of(), *products])
    norm_of_sum = passing(3 * T * D + 2 * D)
    fused = [norm_of_sum, norm_of_sum, gelu, attention_of(), *products]
    assert layer_of("protbert", fused=True) == Counter(fused)


def test_a_layer_of_esm1b() -> None:
    """That of ESM-2 without rotation."""
    products = [product(3 * D, D), product(D, D), product(F, D), product(D, F)]
    others = [ADD, passing(2 * T * F), attention_of(), *products]
    assert layer_of("esm1b") == Counter([NORM, NORM, ADD, *others])
    assert layer_of("esm1b", fused=True) == Counter([NORM, NORM_OF_SUM, *others])


def test_a_layer_of_esm2() -> None:
    """Rotation reads 16-bit and writes 32-bit numbers, adds to each half in place, and narrows."""
    products = [product(3 * D, D), product(D, D), product(F, D), product(D, F)]
    others = [NORM, NORM, ADD, ADD, passing(2 * T * F), attention_of()]
    found = layer_of("esm2-8m")
    assert not Counter([*products, *others]) - found
    rotation = found - Counter([*products, *others])
    assert {kernel.kind for kernel in rotation} == {PASS}
    # Queries and keys of T tokens are 2 T D numbers; cosines and sines of a token are of D / H / 2 angles.
    numbers, angles = 2 * T * D, T * D // H // 2
    widened_cosines = 4 * (angles + 2 * angles)
    times_cosine = HALF * numbers + 4 * 2 * angles + 4 * numbers
    plus_sine = 4 * numbers // 2 + HALF * numbers // 2 + 4 * angles + 4 * numbers // 2
    narrowed = 4 * numbers + HALF * numbers
    assert sorted(rotation.elements(), key=lambda kernel: kernel.bytes) == [
        Kernel(PASS, 0, moved) for moved in sorted([widened_cosines, times_cosine, plus_sine, plus_sine, narrowed])
    ]
    fused = layer_of("esm2-8m", fused=True)
    assert not Counter([NORM, NORM_OF_SUM, ADD, passing(2 * T * F), attention_of(), *products]) - fused
    # One pass: the whole of queries, keys and values at the most, angles of 32 bits, and rotated ones.
    (turned,) = (fused - Counter([NORM, NORM_OF_SUM, ADD, passing(2 * T * F), attention_of(), *products])).elements()
    assert HALF * 2 * numbers <= turned.bytes <= HALF * 2 * numbers + HALF * T * D + 4 * 2 * angles


def test_a_layer_of_esmc() -> None:
    """Four norms, two sums, activation and gate, and rotation of queries and keys; fused, what is between matrices."""
    products = [product(columns, inner, bias=False) for columns, inner in ((3 * D, D), (D, D), (2 * F, D), (D, F))]
    matrices = Counter([*products, attention_of()])
    for fused, passes in ((False, 4 + 2 + 2 + 2 * 5), (True, 5)):
        found = layer_of("esmc-300m", fused=fused)
        assert not matrices - found
        assert {kernel.kind for kernel in found - matrices} == {PASS}
        assert (found - matrices).total() == passes


def test_a_layer_of_ankh() -> None:
    """The bias is read in every layer, and no product has one; activation and gate are of halves of 2 F numbers."""
    products = [product(columns, inner, bias=False) for columns, inner in ((3 * D, D), (D, D), (2 * F, D), (D, F))]
    attended = attention_of(BIASED_ATTENTION, bias=H * L * L)
    activation, gate = passing(2 * T * F), passing(3 * T * F)
    plain = [RMS_NORM, RMS_NORM, ADD, ADD, activation, gate, attended, *products]
    assert layer_of("ankh2-ext2") == Counter(plain)
    fused = [RMS_NORM, RMS_NORM_OF_SUM, ADD, passing(3 * T * F), attended, *products]
    assert layer_of("ankh2-ext2", fused=True) == Counter(fused)


@pytest.mark.parametrize(
    "name", ["esm1nv", "prott5nv", "esm2-8m", "esm1b", "protbert", "esmc-300m", "ankh2-ext2", "prott5-xl"]
)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.slow
def test_operations_are_those_of_the_formula(name: str, fused: bool) -> None:
    encoder = encoder_like(name)
    linear, quadratic = operations(encoder)
    found = PassCounter(encoder, fused=fused).count([(B, L), (1, 7)])
    expected = linear * (T + 7) + quadratic * (B * L * L + 7 * 7)
    assert sum(kernel.operations * number for kernel, number in found.items()) == expected


@pytest.mark.parametrize("name", ["esm1nv", "esm2-8m", "ankh2-ext2"])
def test_layers_that_are_not_run_are_counted_as_if_they_were(name: str) -> None:
    encoder = encoder_like(name, 4)
    counter = PassCounter(encoder)
    counter.shallow = [counter.fake(encoder, 4, torch.bfloat16)]
    counter.layers = 2  # nothing is added to what is run
    assert counter.count([(B, L), (2, 9)]) == PassCounter(encoder).count([(B, L), (2, 9)])


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_shallow_encoders_are_counted_as_they_are(layers: int) -> None:
    encoder = encoder_like("esm1nv", 3)
    encoder.layers = encoder.layers[:layers]
    found = PassCounter(encoder).count([(B, L)])
    assert sum(number for kernel, number in found.items() if kernel.kind == PRODUCT) == 4 * layers
    assert sum(number for kernel, number in found.items() if kernel.kind == ATTENTION) == layers


def test_bytes_follow_the_type() -> None:
    encoder = encoder_like("esm1nv")
    half, whole = (PassCounter(encoder, dtype).count([(B, L)]) for dtype in (torch.bfloat16, torch.float32))
    products = [sum(k.bytes * n for k, n in found.items() if k.kind == PRODUCT) for found in (half, whole)]
    assert products[1] == 2 * products[0]


def test_an_encoder_stays_as_it_is() -> None:
    encoder = encoder_like("esm1nv")
    before = {name: id(parameter) for name, parameter in encoder.named_parameters()}
    PassCounter(encoder, fused=True).count([(B, L)])
    assert {name: id(parameter) for name, parameter in encoder.named_parameters()} == before
    assert len(encoder.layers) == 3
    assert encoder.layers[0].mlp_in.weight.device.type == "meta"


@pytest.mark.parametrize(
    "index",
    [
        lambda x: x[1],
        lambda x: x[:, 1:3],
        lambda x: x[..., 2:],
        lambda x: x[:, None, 1],
        lambda x: x[0, ..., None],
        lambda x: x[torch.tensor([1, 0])],
    ],
)
def test_indexing_gives_what_torch_gives(index: Callable[[Tensor], Tensor]) -> None:
    x = torch.arange(24).view(2, 3, 4)
    with AtenIndexing():
        found = index(x)
    assert torch.equal(found, index(x))


def test_indexed_assignment_changes_what_it_should() -> None:
    x, expected = torch.zeros(2, 3), torch.zeros(2, 3)
    expected[:, 1:] = 5
    with AtenIndexing():
        x[:, 1:] = torch.full((2, 2), 5.0)
    assert torch.equal(x, expected)
