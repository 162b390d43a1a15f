"""Vectors in every dtype against the Hugging Face classes in float32, and what is in float32 whatever the dtype."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.common.terms import FIRST, MAX, MEAN
from embedome.engine.engine import Embedded, Engine
from embedome.engine.tolerances import TOLERANCES, Deviation, tolerance
from embedome.engine.windows import LongPolicy, Sequences
from embedome.models.architectures import DECODER, ENCODER
from embedome.models.create import make_untrained
from embedome.models.directory import load_model
from embedome.models.encoders.int8 import products_are_exact
from helpers.paths import ROOT
from helpers.small_run import assert_within_one_ulp, random_sequence
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

# What is stored is rounded to float16, by half a unit in the last place of its 11 bits.
ROUNDING = 2.0**-11
SIZES = {
    "2 x 64": {"layers": 2, "hidden": 64, "heads": 4, "feed_forward": 128},
    "4 x 256": {"layers": 4, "hidden": 256, "heads": 4, "feed_forward": 1024},
}
LENGTHS = {"2 x 64": [1, 2, 7, 33, 64, 150, 400, 510], "4 x 256": [1, 40, 300]}


class Family(NamedTuple):
    """An architecture, with as many tokens before and after the residues."""

    like: str
    first: int
    last: int
    features: str = ENCODER
    between: str = ""


FAMILIES = {
    "ESM-1nv": Family("esm1nv", 1, 1),
    "ProtT5nv": Family("prott5nv", 0, 0),
    "Ankh2-ext2": Family("ankh2-ext2", 0, 1),
    "Ankh2-ext2, decoder": Family("ankh2-ext2", 0, 1, DECODER),
    "ESM-2": Family("esm2-8m", 1, 1),
    "ESM-1b": Family("esm1b", 1, 1),
    "ESM-C": Family("esmc-300m", 1, 1),
    "ProtBERT": Family("protbert", 1, 1, between=" "),
    "Sapiens": Family("sapiens-vh", 1, 1),
}


@dataclass(frozen=True)
class Case:
    """A small model, and its Hugging Face class in float32 on one sequence at a time."""

    folder: Path
    family: Family

    def engine(self, **options: object) -> Engine:
        return Engine(load_model(self.folder, self.family.features), **options)

    @property
    def poolings(self) -> list[str]:
        return [MEAN, MAX, *([FIRST] if self.family.first else [])]

    @lru_cache  # noqa: B019 - as long as the tests of a module
    def reference(self) -> tuple[Callable, Callable]:
        model = AutoModel.from_pretrained(self.folder).float().eval()
        if self.family.features == ENCODER and model.config.is_encoder_decoder:
            model = model.get_encoder()
        return model, AutoTokenizer.from_pretrained(self.folder)

    @lru_cache(10_000)  # noqa: B019
    @torch.inference_mode()
    def hidden(self, sequence: str) -> np.ndarray:
        """Hidden states of all tokens, float64 [T, D]."""
        model, tokenizer = self.reference()
        tokens = {"input_ids": tokenizer(self.family.between.join(sequence), return_tensors="pt").input_ids}
        assert tokens["input_ids"].shape[1] == len(sequence) + self.family.first + self.family.last
        if self.family.features == DECODER:
            tokens["decoder_input_ids"] = tokens["input_ids"]
        return model(**tokens).last_hidden_state[0].numpy().astype(np.float64)

    def residues(self, sequence: str) -> np.ndarray:
        """Hidden states of the residues, float64 [L, D]."""
        return self.hidden(sequence)[self.family.first : self.family.first + len(sequence)]

    def exact(self, sequence: str, policy: LongPolicy | None, longest: int) -> dict[str, np.ndarray]:
        """Return the vectors that a sequence should have: by pooling [1, D], and of the residues [L, D]."""
        pieces = [sequence[begin : begin + longest] for begin in starts(len(sequence), policy, longest)]
        sums, counts = np.zeros((len(sequence), 1)), np.zeros((len(sequence), 1))
        for begin, piece in zip(starts(len(sequence), policy, longest), pieces, strict=True):
            inner = slice(begin, begin + len(piece))
            sums = sums + np.pad(self.residues(piece), ((begin, len(sequence) - inner.stop), (0, 0)))
            counts[inner] += 1
        residues = (sums / np.maximum(counts, 1))[counts[:, 0] > 0]
        largest = np.max([self.residues(piece).max(0) for piece in pieces], axis=0)
        found = {"residues": residues, MEAN: residues.mean(0), MAX: largest, FIRST: self.hidden(pieces[0])[0]}
        return {name: np.atleast_2d(states) for name, states in found.items()}


def starts(length: int, policy: LongPolicy | None, longest: int) -> list[int]:
    """Where the pieces of a sequence begin, by the description of the policies."""
    if length <= longest or policy is None or policy.name != "window":
        return [0]
    return [*range(0, length - longest, longest - policy.overlap), length - longest]


def make_case(folder: Path, family: Family, size: str, seed: int = 1) -> Case:
    """A model in which every parameter is random and matters.

    A T5's matrices are drawn at the scale of what they multiply. Others are too small to matter in layers this narrow,
    and would leave the biases as all there is.
    """
    sizes = {**SIZES[size], **({"decoder_layers": 2} if family.like in ("prott5nv", "ankh2-ext2") else {})}
    make_untrained(folder, "uneven", family.like, sizes, seed)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    for name, values in weights.items():
        relative = "relative_attention_bias" in name
        matrix_of_t5 = family.like == "ankh2-ext2" and values.ndim == 2 and not relative
        # ESM-1nv has no token types, and ESM-2's frequencies are no weights.
        if not matrix_of_t5 and "token_type" not in name and "inv_freq" not in name:
            values += (1.0 if relative else 0.1) * torch.randn(values.shape, generator=generator)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return Case(folder, family)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Case]:
    """Cases by family and size, made once."""

    @lru_cache
    def get(name: str, size: str = "2 x 64") -> Case:
        return make_case(tmp_path_factory.mktemp("precision") / "model", FAMILIES[name], size)

    return get


def skip_without_vnni(dtype: str) -> None:
    if dtype == "int8" and not products_are_exact():
        pytest.skip("this processor has no VNNI, without which int8 is refused")


def randoms(seed: int, lengths: list[int]) -> list[str]:
    rng = random.Random(seed)
    return [random_sequence(rng, length) for length in lengths]


def join(sequences: list[str]) -> Sequences:
    return Sequences.join([sequence.encode() for sequence in sequences])


def deviation(found: Embedded, exact: list[dict[str, np.ndarray]]) -> tuple[float, float]:
    """A `Deviation`: all elements are held to the bound of residues', pooled ones too, but for the rounding to float16.

    The cosines are of what is stored.
    """
    cosines, differences = [], []
    for row, true in enumerate(exact):
        mine = {name: vectors[row : row + 1] for name, vectors in found.vectors.items()}
        for name, vector in mine.items():
            one, other = vector[0].astype(np.float64), true[name][0]
            cosines.append(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
        mine["residues"] = found.residues[row]
        for name, states in mine.items():
            assert states.dtype == np.float16
            assert states.shape == true[name].shape
            off = np.abs(states.astype(np.float64) - true[name]) - ROUNDING * np.abs(true[name])
            differences.append(off.max())
    return Deviation(min(cosines), max(differences))


# Tolerances


def test_tolerances_are_those_of_the_documentation() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert {dtype: (float(cosine), float(residues)) for dtype, cosine, residues in rows} == TOLERANCES


@pytest.mark.parametrize(
    ("name", "size", "dtype"),
    [
        (name, size, dtype)
        for name, family in FAMILIES.items()
        for size in SIZES
        for dtype in TOLERANCES
        if not (family.features == DECODER and size == "4 x 256")  # its layers are the encoder's but for one part
        and not (family.like == "ankh2-ext2" and dtype == "float16")
    ],
)
@pytest.mark.slow
def test_vectors_are_within_the_tolerance(cases: Callable[..., Case], name: str, size: str, dtype: str) -> None:
    skip_without_vnni(dtype)
    case = cases(name, size)
    engine = case.engine(dtype=dtype, poolings=case.poolings, per_residue=True)
    most = engine.max_residues
    sequences = randoms(1, [length for length in LENGTHS[size] if most is None or length <= most])
    found = deviation(engine.embed(join(sequences)), [case.exact(each, None, len(each)) for each in sequences])
    assert found.within(tolerance(dtype, 2)), found
    if dtype != "float32":
        assert not found.within(TOLERANCES["float32"])  # it did round


@pytest.mark.parametrize("name", ["Ankh2-ext2", "Ankh2-ext2, decoder"])
def test_t5_is_refused_in_float16(cases: Callable[..., Case], name: str) -> None:
    with pytest.raises(UserError, match="float16, which T5 models overflow"):
        cases(name).engine(dtype="float16")


def test_deeper_models_may_be_further_off() -> None:
    assert tolerance("bfloat16", 12) == TOLERANCES["bfloat16"]
    cosine, residues = tolerance("bfloat16", 48)
    assert (1 - cosine, residues) == (pytest.approx(4 * 3e-4), pytest.approx(2 * 0.25))
    assert not Deviation(float("nan"), 0.0).within(TOLERANCES["int8"])
    assert not Deviation(1.0, float("nan")).within(TOLERANCES["int8"])


# Any mix, order and budget

POOL_LENGTHS = [1, 1, 2, 3, 5, 5, 9, 13, 13, 13, 29, 30, 30, 31, 47, 60, 61, 90, 120, 200]
# The most that the model takes, and more.
LONGEST = {"ESM-1nv": [510, 511], "ProtT5nv": [512, 513], "Ankh2-ext2": [700], "ESM-2": [1022, 1023]}
POLICIES = [
    LongPolicy("truncate"),
    LongPolicy("truncate", 0, 30),
    LongPolicy("skip", 0, 30),
    LongPolicy("window", 0, 30),
    LongPolicy("window", 11, 30),
]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("ProtT5nv", "float32"),
        ("Ankh2-ext2", "float32"),
        ("ESM-2", "float32"),
        ("ESM-1nv", "bfloat16"),
        ("Ankh2-ext2", "bfloat16"),
        ("ESM-1nv", "int8"),
    ],
)
@pytest.mark.slow
def test_vectors_do_not_depend_on_company(cases: Callable[..., Case], name: str, dtype: str) -> None:
    """Whatever is embedded together, in which order and with which budget, each vector is that of its sequence."""
    skip_without_vnni(dtype)
    case = cases(name)
    engine = case.engine(dtype=dtype, poolings=case.poolings, per_residue=True)
    most = engine.max_residues
    pool = randoms(2, [*POOL_LENGTHS, *LONGEST[name]])

    @settings(max_examples=20)
    @given(
        picks=st.lists(st.sampled_from(pool), min_size=1, max_size=25),
        budget=st.integers(1, 3000),
        policy=st.sampled_from(POLICIES),
    )
    def check(picks: list[str], budget: int, policy: LongPolicy) -> None:
        engine.policy, engine.token_budget = policy, budget
        engine.max_residues = longest = policy.max_residues or most
        found = engine.embed(join(picks))
        long = np.array([len(each) > longest for each in picks])
        assert found.skipped.tolist() == (long if policy.name == "skip" else np.zeros_like(long)).tolist()
        kept = np.flatnonzero(~found.skipped)
        if len(kept):
            vectors = {pooling: vectors[kept] for pooling, vectors in found.vectors.items()}
            residues = [found.residues[row] for row in kept]
            some = Embedded(vectors, found.used[kept], found.state[kept], found.skipped[kept], 0, residues)
            exact = [case.exact(picks[row], policy, longest) for row in kept]
            off = deviation(some, exact)
            assert off.within(tolerance(dtype, 2)), off

    check()


# In float32 always


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("policy", [LongPolicy(), LongPolicy("window", 250, 400)])
def test_pooling_adds_up_in_float32(cases: Callable[..., Case], policy: LongPolicy, dtype: str) -> None:
    """Of embeddings, which are the same whatever the batch; far from zero, as sums of such lose most."""
    case = cases("ESM-1nv")
    engine = case.engine(dtype=dtype, policy=policy, layer=0, per_residue=True)
    words, positions = engine.encoder.words.weight, engine.encoder.positions.weight
    with torch.no_grad():
        words += 0.5
    sequences = randoms(3, [3, 400, 510, 1200])
    found = engine.embed(join(sequences))
    for row, sequence in enumerate(sequences):
        sums = np.zeros((len(sequence), engine.dimension))
        counts = np.zeros(len(sequence))
        for begin in starts(len(sequence), policy, engine.max_residues):
            piece = sequence[begin : begin + engine.max_residues]
            tokens = torch.from_numpy(engine.tokenizer.tokens(np.frombuffer(piece.encode(), np.uint8)[None])[0])
            states = (words[tokens] + positions[: len(tokens)])[1:-1]
            assert states.dtype == getattr(torch, dtype)
            sums[begin : begin + len(piece)] += states.detach().double().numpy()
            counts[begin : begin + len(piece)] += 1
        exact = (sums / np.maximum(counts, 1)[:, None])[counts > 0]
        assert_within_one_ulp(found.vectors[MEAN][row], exact.mean(0))
        assert_within_one_ulp(found.residues[row], exact)


class Call(NamedTuple):
    """What scaled_dot_product_attention was given."""

    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    options: dict


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Call]]:
    """The calls of scaled_dot_product_attention."""
    seen: list[Call] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watch(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        **options: object,
    ) -> torch.Tensor:
        seen.append(Call(query, key, attn_mask, options))
        return attention(query, key, value, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    return seen


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_positions_rotate_in_float32(cases: Callable[..., Case], calls: list[Call], dtype: str) -> None:
    """Queries and keys are off by their own rounding, even a thousand residues away."""
    engine = cases("ESM-2").engine(dtype=dtype)
    projected: list[torch.Tensor] = []
    for layer in engine.encoder.layers:
        layer.qkv.register_forward_hook(lambda module, inputs, output: projected.append(output))
    engine.embed(join(randoms(4, [1022])))
    assert len(calls) == len(projected) == 2
    positions = torch.arange(1024, dtype=torch.float32)
    angles = torch.outer(positions, engine.encoder.rotary.frequencies).double()[:, None]
    assert angles.max() > 1000
    for call, output in zip(calls, projected, strict=True):
        heads = output.double().view(1024, 3, 4, 16).unbind(1)
        for found, given_ in zip((call.query, call.key), heads, strict=False):
            front, back = given_.chunk(2, -1)
            turned = (front * angles.cos() - back * angles.sin(), back * angles.cos() + front * angles.sin())
            exact = torch.cat(turned, -1).transpose(0, 1)
            assert found.dtype == getattr(torch, dtype)
            half_unit = torch.finfo(found.dtype).eps / 2 * exact.abs()
            assert ((found[0].double() - exact).abs() <= half_unit + 1e-6).all()


# Attention's masks


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["ESM-1nv", "ProtT5nv", "ESM-2"])
def test_no_mask_without_a_bias(cases: Callable[..., Case], calls: list[Call], name: str, dtype: str) -> None:
    """With one, even of zeros, a GPU takes slower kernels."""
    cases(name).engine(dtype=dtype).embed(join(randoms(5, [3, 40, 40, 200])))
    assert len(calls) == 2 * 3  # layers, lengths
    assert all(call.mask is None for call in calls)
    assert not any(call.options.get("is_causal") or call.options.get("dropout_p") for call in calls)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("length", [1, 15, 16, 36, 99])
def test_rows_of_the_relative_bias_are_aligned(
    cases: Callable[..., Case], calls: list[Call], length: int, dtype: str
) -> None:
    """At multiples of 16 elements, as torch's kernels want it; they would copy the bias in every layer."""
    cases("Ankh2-ext2").engine(dtype=dtype).embed(join(randoms(6, [length, length])))
    assert len(calls) == 2
    for call in calls:
        assert call.mask.shape[1:] == (4, length + 1, length + 1)
        assert call.mask.dtype == call.query.dtype
        *outer, last = call.mask.stride()
        assert last == 1
        assert not any(stride % 16 for stride in outer)
    assert calls[0].mask.data_ptr() == calls[1].mask.data_ptr()
