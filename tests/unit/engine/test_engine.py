"""The engine against the Hugging Face class, run one sequence at a time in float32."""

import os
import random
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.engine.device import is_out_of_memory
from embedome.engine.engine import Engine, token_budget
from embedome.engine.pooling import ResidueStates
from embedome.engine.windows import LongPolicy, Sequences
from embedome.models.directory import load_model
from embedome.models.encoders.esm2 import Rotary
from embedome.models.encoders.t5 import RelativeBias
from helpers import small_run as line
from helpers.processes import python_command
from helpers.small_run import MAX_RESIDUES, HuggingFace, assert_within_one_ulp
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MegatronBertModel

TRYPTOPHAN = 24  # a token id


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line.rough_model(tmp_path_factory.mktemp("engine") / "model")


@pytest.fixture(scope="module")
def reference(model: Path) -> HuggingFace:
    return HuggingFace(model)


@pytest.fixture(scope="module")
def engine(model: Path) -> Engine:
    return Engine(load_model(model))


def make_engine(model: Path, policy: str = "truncate", overlap: int = 0) -> Engine:
    return Engine(load_model(model), policy=LongPolicy(policy, overlap))


def join(sequences: list[str]) -> Sequences:
    return Sequences.join([sequence.encode() for sequence in sequences])


def randoms(seed: int, lengths: list[int]) -> list[str]:
    rng = random.Random(seed)
    return [line.random_sequence(rng, length) for length in lengths]


# Hidden states


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_hidden_states_equal_hugging_face_at_every_length(engine: Engine, reference: HuggingFace, batch: int) -> None:
    for length in range(1, MAX_RESIDUES + 1):
        sequences = randoms(1000 * batch + length, [length] * batch)
        residues = np.array([list(sequence.encode()) for sequence in sequences], np.uint8)
        hidden = engine.encoder(torch.from_numpy(engine.tokenizer.tokens(residues))).numpy()
        assert hidden.dtype == np.float32
        for mine, sequence in zip(hidden, sequences, strict=True):
            assert np.abs(mine - reference.hidden(sequence)).max() < 1e-5


@torch.inference_mode()
def test_hidden_states_of_a_large_batch(engine: Engine, reference: HuggingFace) -> None:
    sequences = randoms(3, [33] * 200)
    residues = np.array([list(sequence.encode()) for sequence in sequences], np.uint8)
    hidden = engine.encoder(torch.from_numpy(engine.tokenizer.tokens(residues))).numpy()
    expected = np.stack([reference.hidden(sequence) for sequence in sequences])
    assert np.abs(hidden - expected).max() < 1e-5


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh"])
def test_other_activations_and_depths(tmp_path: Path, activation: str) -> None:
    reference = MegatronBertModel(
        MegatronBertModel.config_class(
            vocab_size=64,
            hidden_size=48,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=80,
            max_position_embeddings=line.POSITIONS,
            hidden_act=activation,
            layer_norm_eps=1e-3,
            initializer_range=0.3,
        ),
        add_pooling_layer=False,
    ).eval()
    # Saved from the bare class: no name begins with "bert.".
    reference.save_pretrained(tmp_path)
    for path in line.rough_model(tmp_path / "other").glob("tokenizer*.json"):
        shutil.copy(path, tmp_path)
    assert not any(name.startswith("bert.") for name in load_file(tmp_path / "model.safetensors"))
    encoder = load_model(tmp_path).encoder
    tokens = torch.randint(0, 40, (5, 20), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for row in tokens:
            expected = reference(row[None]).last_hidden_state[0]
            assert (encoder(row[None])[0] - expected).abs().max() < 1e-5
            # Wide initial weights make the three activations differ by far more than the tolerance.
        assert (encoder(tokens) - reference(tokens).last_hidden_state).abs().max() < 1e-5


def test_token_types_of_a_checkpoint_are_honoured(model: Path, reference: HuggingFace, tmp_path: Path) -> None:
    typed = shutil.copytree(model, tmp_path / "typed")
    weights = load_file(typed / "model.safetensors")
    types = weights["bert.embeddings.token_type_embeddings.weight"]
    types.copy_(torch.randn(types.shape, generator=torch.Generator().manual_seed(2)))
    save_file(weights, typed / "model.safetensors", {"format": "pt"})
    sequences = randoms(5, [1, 9, 62])
    found = make_engine(typed).embed(join(sequences)).vectors["mean"]
    assert_within_one_ulp(found, np.stack([HuggingFace(typed).mean(sequence) for sequence in sequences]))
    assert np.abs(found - np.stack([reference.mean(sequence) for sequence in sequences])).max() > 0.1


# Positions, which stay on the device


class Copies(TorchDispatchMode):
    """Counts copies of tensors from the CPU to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        found = operation(*arguments, **(options or {}))
        given = [each for each in arguments if isinstance(each, torch.Tensor) and each.device.type == "cpu"]
        self.count += bool(given) and isinstance(found, torch.Tensor) and found.device.type != "cpu"
        return found


@torch.inference_mode()
@pytest.mark.parametrize("causal", [False, True])
def test_positions_are_copied_to_the_device_once(causal: bool) -> None:
    device = torch.device("meta")
    rotary, bias = Rotary(8), RelativeBias(2, 8, 20, causal=causal).to(device)
    with Copies() as first:
        rotary([torch.Size([1, 40])], device), bias(40)
    assert first.count == 2
    with Copies() as later:
        for length in (40, 39, 7, 1):
            rotary([torch.Size([1, length])], device), bias(length)
    assert later.count == 0


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (64, 128), (8, 20)])
def test_classes_of_distances_are_the_same_whatever_was_asked_before(
    buckets: int, max_distance: int, causal: bool
) -> None:
    bias = RelativeBias(2, buckets, max_distance, causal=causal)
    for length in (5, 1, 300, 17, *range(250, 310), 1100, 2, 999):
        expected = bias.buckets(torch.arange(1 - length, length))
        assert torch.equal(bias.classes_within(length), expected)


# Pooled vectors


@pytest.mark.parametrize("budget", [1, 64, 200, 4096])
def test_vectors_equal_the_mean_over_residues(model: Path, reference: HuggingFace, budget: int) -> None:
    sequences = randoms(7, [*range(1, MAX_RESIDUES + 1), 5, 5, 5, 62, 1])
    engine = make_engine(model)
    engine.token_budget = budget
    found = engine.embed(join(sequences))
    assert_within_one_ulp(found.vectors["mean"], np.stack([reference.mean(sequence) for sequence in sequences]))
    assert found.used.tolist() == [len(sequence) for sequence in sequences]
    assert set(found.state.tolist()) == {"embedded"}
    assert not found.skipped.any()


POOL = randoms(11, [1, 1, 2, 3, 3, 3, 7, 8, 20, 20, 21, 40, 61, 62, 62, 63, 64, 90, 124, 125])
KNOWN: dict[tuple[str, str, int], np.ndarray] = {}


def expected(reference: HuggingFace, sequence: str, policy: str = "truncate", overlap: int = 0) -> np.ndarray:
    key = (sequence, policy, overlap)
    if key not in KNOWN:
        KNOWN[key] = reference.vector(*key)
    return KNOWN[key]


@settings(max_examples=80, deadline=None)
@given(
    picks=st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=40),
    budget=st.integers(1, 3000),
    policy=st.sampled_from([("truncate", 0), ("window", 0), ("window", 17)]),
)
def test_vectors_do_not_depend_on_company(
    model: Path, engine: Engine, reference: HuggingFace, picks: list[int], budget: int, policy: tuple[str, int]
) -> None:
    sequences = [POOL[pick] for pick in picks]
    engine.policy, engine.token_budget = LongPolicy(*policy), budget
    try:
        found = engine.embed(join(sequences))
    finally:
        engine.policy, engine.token_budget = LongPolicy(), 4096
    assert_within_one_ulp(found.vectors["mean"], np.stack([expected(reference, each, *policy) for each in sequences]))


def test_batches_are_dense_and_within_the_budget(model: Path) -> None:
    engine = make_engine(model)
    engine.token_budget = 100
    shapes: list[list[tuple[int, int]]] = []
    encode = engine.encoder.stream

    def watch(groups: list[torch.Tensor]) -> list[torch.Tensor]:
        shapes.append([tuple(tokens.shape) for tokens in groups])
        for tokens in groups:
            assert (tokens[:, 0] == 1).all()
            assert (tokens[:, -1] == 2).all()
            assert (tokens[:, 1:-1] > 4).all()  # residues only: no padding
        return encode(groups)

    engine.encoder.stream = watch
    lengths = [3] * 45 + [60] * 3 + [8] * 11
    engine.embed(join(randoms(1, random.Random(1).sample(lengths, len(lengths)))))
    assert shapes == [[(1, 62)], [(1, 62)], [(1, 62), (3, 10)], [(8, 10), (4, 5)], [(20, 5)], [(20, 5)], [(1, 5)]]


def test_large_groups_are_batches_by_themselves(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedome.engine.engine.LONE_GROUP_TOKENS", 0)
    engine = make_engine(model)
    engine.token_budget = 100
    shapes: list[tuple[int, int]] = []
    encode = engine.encoder.stream

    def watch(groups: list[torch.Tensor]) -> list[torch.Tensor]:
        (tokens,) = groups
        shapes.append(tuple(tokens.shape))
        return encode(groups)

    engine.encoder.stream = watch
    engine.embed(join(randoms(1, [3] * 45 + [60] * 3 + [8] * 11)))
    assert shapes == [(1, 62), (1, 62), (1, 62), (10, 10), (1, 10), (20, 5), (20, 5), (5, 5)]


def test_no_sequences_give_no_vectors(engine: Engine) -> None:
    found = engine.embed(Sequences.join([]))
    assert found.vectors["mean"].shape == (0, 32)
    assert len(found.used) == len(found.state) == len(found.skipped) == 0


def test_bfloat16_is_near_float32(model: Path, reference: HuggingFace) -> None:
    sequences = randoms(13, [1, 5, 5, 30, 62, 80])
    found = Engine(load_model(model), dtype="bfloat16").embed(join(sequences)).vectors["mean"].astype(np.float64)
    exact = np.stack([expected(reference, sequence) for sequence in sequences])
    error = np.abs(found - exact).max()
    assert 1e-4 < error < 0.1  # another precision, not another result


# Long sequences


LENGTHS = [1, 61, 62, 63, 64, 100, 123, 124, 125, 186, 187, 300]


@pytest.mark.parametrize("overlap", [0, 1, 13, 31, 60, 61])
def test_windows_equal_a_loop_over_hugging_face(model: Path, reference: HuggingFace, overlap: int) -> None:
    lengths = LENGTHS if overlap < 60 else [62, 63, 80]
    sequences = randoms(17, lengths)
    found = make_engine(model, "window", overlap).embed(join(sequences))
    assert_within_one_ulp(
        found.vectors["mean"], np.stack([reference.vector(sequence, "window", overlap) for sequence in sequences])
    )
    assert found.used.tolist() == lengths
    assert found.state.tolist() == ["windowed" if length > 62 else "embedded" for length in lengths]
    assert not found.skipped.any()


def test_truncation_uses_the_first_residues(model: Path, reference: HuggingFace) -> None:
    sequences = randoms(19, LENGTHS)
    found = make_engine(model).embed(join(sequences))
    assert_within_one_ulp(found.vectors["mean"], np.stack([reference.mean(sequence[:62]) for sequence in sequences]))
    assert found.used.tolist() == [min(length, 62) for length in LENGTHS]
    assert found.state.tolist() == ["truncated" if length > 62 else "embedded" for length in LENGTHS]
    assert not found.skipped.any()


def test_skipping_leaves_the_others_alone(model: Path, reference: HuggingFace) -> None:
    sequences = randoms(23, LENGTHS)
    found = make_engine(model, "skip").embed(join(sequences))
    assert found.skipped.tolist() == [length > 62 for length in LENGTHS]
    assert found.state.tolist() == ["too-long" if length > 62 else "embedded" for length in LENGTHS]
    kept = [sequence for sequence in sequences if len(sequence) <= 62]
    assert_within_one_ulp(
        found.vectors["mean"][~found.skipped], np.stack([reference.mean(sequence) for sequence in kept])
    )
    assert found.used[~found.skipped].tolist() == [len(sequence) for sequence in kept]
    only = make_engine(model, "skip").embed(join(sequences[3:]))
    assert only.skipped.all()


@pytest.mark.parametrize("overlap", [62, 63, 1000, -1])
def test_impossible_overlap_is_refused(model: Path, overlap: int) -> None:
    with pytest.raises(UserError, match=rf"embed\.overlap is {overlap}; .*62 residues"):
        make_engine(model, "window", overlap)


def test_a_lower_limit_than_the_positions_truncates_and_cuts_windows(model: Path, reference: HuggingFace) -> None:
    sequences = randoms(8, [19, 20, 21, 45, 100])
    truncated = Engine(load_model(model), policy=LongPolicy("truncate", 0, 20)).embed(join(sequences))
    assert truncated.used.tolist() == [19, 20, 20, 20, 20]
    line.assert_within_one_ulp(truncated.vectors["mean"], np.stack([reference.mean(each[:20]) for each in sequences]))

    windowed = Engine(load_model(model), policy=LongPolicy("window", 0, 20)).embed(join([*sequences[:1], sequences[4]]))
    assert windowed.state.tolist() == ["embedded", "windowed"]
    # Without overlap, and with a length that windows divide, the mean of means is the mean.
    windows = [reference.mean(sequences[4][start : start + 20]) for start in range(0, 100, 20)]
    line.assert_within_one_ulp(windowed.vectors["mean"][1:], np.mean(windows, axis=0)[None])


@pytest.mark.parametrize("longest", [0, MAX_RESIDUES + 1])
def test_an_impossible_limit_is_refused(model: Path, longest: int) -> None:
    with pytest.raises(UserError, match=f"embed.max_residues is {longest}; expected 1 to {MAX_RESIDUES}"):
        Engine(load_model(model), policy=LongPolicy("truncate", 0, longest))


def test_missing_gpu_is_refused(model: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="a GPU was asked for") as excinfo:
        Engine(load_model(model), device="cuda")
    message = str(excinfo.value)
    assert torch.__version__ in message
    assert "\n" not in message
    assert (torch.version.cuda or "CPU only") in message


# Vectors that are not finite


def spoil(engine: Engine, change: Callable[[torch.Tensor], None]) -> None:
    """Change the hidden states [L, D] of each sequence that holds a tryptophan."""
    encode = engine.encoder.stream

    def broken(groups: list[torch.Tensor]) -> list[torch.Tensor]:
        found = encode(groups)
        for tokens, hidden in zip(groups, found, strict=True):
            for row in torch.nonzero((tokens == TRYPTOPHAN).any(1)).flatten().tolist():
                change(hidden[row])
        return found

    engine.encoder.stream = broken


def one_residue(value: float) -> Callable[[torch.Tensor], None]:
    return lambda hidden: hidden[1, 3].fill_(value)


def everywhere(value: float) -> Callable[[torch.Tensor], None]:
    return lambda hidden: hidden.fill_(value)


def both_infinities(hidden: torch.Tensor) -> None:
    hidden[1, 0], hidden[2, 0] = float("inf"), float("-inf")


@pytest.mark.parametrize(
    "change",
    [
        one_residue(float("nan")),
        one_residue(float("inf")),
        one_residue(float("-inf")),
        both_infinities,
        everywhere(1e6),  # finite, but beyond float16
        everywhere(-1e30),
    ],
)
@pytest.mark.parametrize("policy", [("truncate", 0), ("window", 10)])
def test_not_finite_is_skipped_and_spoils_nothing_else(
    model: Path, reference: HuggingFace, change: Callable[[torch.Tensor], None], policy: tuple[str, int]
) -> None:
    sequences = [sequence.replace("W", "A") for sequence in randoms(29, [5, 10, 10, 10, 10, 62, 70, 70, 130, 130])]
    bad = [2, 6, 8]
    sequences = [f"W{sequence[1:]}" if i in bad else sequence for i, sequence in enumerate(sequences)]
    engine = make_engine(model, *policy)
    spoil(engine, change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = engine.embed(join(sequences))
    assert np.flatnonzero(found.skipped).tolist() == bad
    assert set(found.state[bad].tolist()) == {"non-finite"}
    good = [i for i in range(len(sequences)) if i not in bad]
    assert not set(found.state[good].tolist()) & {"non-finite", "too-long"}
    assert_within_one_ulp(
        found.vectors["mean"][good], np.stack([expected(reference, sequences[i], *policy) for i in good])
    )


def test_the_largest_half_float_is_kept(model: Path) -> None:
    engine = make_engine(model)
    spoil(engine, everywhere(65504.0))
    found = engine.embed(join(["AWA", "AAA"]))
    assert not found.skipped.any()
    assert (found.vectors["mean"][0] == 65504).all()


# Layers and poolings


def test_every_layer_equals_the_hidden_states_of_hugging_face(model: Path, reference: HuggingFace) -> None:
    sequences = randoms(31, [1, 7, 62])
    with torch.inference_mode():
        states = [
            reference.model(**reference.tokenizer(each, return_tensors="pt"), output_hidden_states=True).hidden_states
            for each in sequences
        ]
    for layer in range(-3, 3):
        found = Engine(load_model(model), layer=layer).embed(join(sequences)).vectors["mean"]
        assert_within_one_ulp(found, np.stack([each[layer][0, 1:-1].double().mean(0).numpy() for each in states]))


@pytest.mark.parametrize("layer", [-4, 3])
def test_a_layer_that_is_not_there_is_refused(model: Path, layer: int) -> None:
    with pytest.raises(UserError, match=rf"embed\.layer is {layer}; expected 0 .* to 2"):
        Engine(load_model(model), layer=layer)


@pytest.mark.parametrize("budget", [1, 300, 4096])
def test_several_poolings_at_once(model: Path, reference: HuggingFace, budget: int) -> None:
    sequences = randoms(37, [1, 2, 5, 5, 5, 40, 62, 62, 80])
    engine = Engine(load_model(model), poolings=("max", "mean", "first"))
    engine.token_budget = budget
    found = engine.embed(join(sequences)).vectors
    states = [reference.hidden(sequence[:62]) for sequence in sequences]
    assert list(found) == ["max", "mean", "first"]
    assert_within_one_ulp(found["mean"], np.stack([each[1:-1].astype(np.float64).mean(0) for each in states]))
    assert_within_one_ulp(found["max"], np.stack([each[1:-1].max(0) for each in states]))
    assert_within_one_ulp(found["first"], np.stack([each[0] for each in states]))


@pytest.mark.parametrize("overlap", [0, 20])
def test_poolings_of_windows(model: Path, reference: HuggingFace, overlap: int) -> None:
    sequences = randoms(41, [150, 3, 62, 63, 124])
    engine = Engine(load_model(model), policy=LongPolicy("window", overlap), poolings=("max", "first"))
    found = engine.embed(join(sequences)).vectors
    stride = 62 - overlap
    for row, sequence in enumerate(sequences):
        starts = [*range(0, max(len(sequence) - 62, 0), stride), max(len(sequence) - 62, 0)]
        states = [reference.hidden(sequence[start : start + 62]) for start in starts]
        assert_within_one_ulp(found["max"][row], np.max([each[1:-1].max(0) for each in states], axis=0))
        assert_within_one_ulp(found["first"][row], states[0][0])


# Per-residue embeddings


@pytest.mark.parametrize("budget", [1, 200, 4096])
@pytest.mark.parametrize(("policy", "overlap"), [("truncate", 0), ("window", 0), ("window", 17), ("skip", 0)])
def test_residues_equal_hugging_face(
    model: Path, reference: HuggingFace, budget: int, policy: str, overlap: int
) -> None:
    sequences = randoms(43, [80, 1, 9, 9, 62, 63, 9, 150])
    engine = Engine(load_model(model), policy=LongPolicy(policy, overlap), per_residue=True)
    engine.token_budget = budget
    found = engine.embed(join(sequences))
    assert len(found.residues) == len(sequences)
    for sequence, states, skipped in zip(sequences, found.residues, found.skipped, strict=True):
        if skipped:
            assert states.shape == (0, 32)
            continue
        exact = reference.residues(sequence, policy, overlap)
        assert_within_one_ulp(states, exact)
    plain = Engine(load_model(model), policy=LongPolicy(policy, overlap))
    plain.token_budget = budget
    vectors = plain.embed(join(sequences))
    assert np.array_equal(vectors.vectors["mean"], found.vectors["mean"])
    assert vectors.residues is None


def test_a_residue_that_is_not_finite_skips_its_sequence(model: Path) -> None:
    engine = Engine(load_model(model), poolings=("first",), per_residue=True)
    spoil(engine, one_residue(float("nan")))
    found = engine.embed(join(["AAA", "AWA"]))
    assert found.state.tolist() == ["embedded", "non-finite"]


# Memory


def limit_memory(engine: Engine, tokens: int, error: type[RuntimeError] = torch.OutOfMemoryError) -> list[int]:
    """Let batches of more tokens fail; the sizes of all that were tried."""
    tried: list[int] = []
    encode = engine.encoder.stream

    def limited(groups: list[torch.Tensor]) -> list[torch.Tensor]:
        tried.append(sum(group.numel() for group in groups))
        if tried[-1] > tokens:
            raise error("can't allocate memory: you tried to allocate too much")
        return encode(groups)

    engine.encoder.stream = limited
    return tried


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_batches_shrink_until_they_fit(model: Path, error: type[RuntimeError], monkeypatch: pytest.MonkeyPatch) -> None:
    freed = []
    monkeypatch.setattr("embedome.engine.engine.free_memory", lambda: freed.append(len(tried)))
    sequences = randoms(47, [20] * 50 + [7] * 31 + [62])
    expected = make_engine(model).embed(join(sequences))
    engine = make_engine(model)
    tried = limit_memory(engine, 100, error)
    found = engine.embed(join(sequences))
    assert not found.skipped.any()
    assert np.array_equal(found.vectors["mean"], expected.vectors["mean"])
    failed = sum(size > 100 for size in tried)
    # What torch holds of a batch that did not fit is given back before the next one.
    assert freed == [number for number, size in enumerate(tried, 1) if size > 100]
    assert failed <= 5  # halved, from 50 * 22 tokens
    # One part must not slow down those after it, whose sequences may be shorter.
    assert engine.token_budget == 4096
    assert np.array_equal(engine.embed(join(sequences)).vectors["mean"], expected.vectors["mean"])
    assert sum(size > 100 for size in tried) == 2 * failed


def test_a_sequence_that_does_not_fit_is_skipped_alone(model: Path) -> None:
    sequences = randoms(53, [62, 40, 62, 5, 5, 10])
    engine = make_engine(model)
    limit_memory(engine, 50)
    found = engine.embed(join(sequences))
    assert found.state.tolist() == ["out-of-memory", "embedded", "out-of-memory", *["embedded"] * 3]
    assert found.skipped.tolist() == [True, False, True, False, False, False]
    expected = make_engine(model).embed(join(sequences)).vectors["mean"]
    assert np.array_equal(found.vectors["mean"][~found.skipped], expected[~found.skipped])


def test_one_window_too_many_skips_its_sequence(model: Path) -> None:
    sequences = randoms(59, [100, 20])
    engine = make_engine(model, "window", 0)
    limit_memory(engine, 30)
    assert engine.embed(join(sequences)).state.tolist() == ["out-of-memory", "embedded"]


def test_residues_of_windows_are_added_up_once_however_often_a_batch_is_tried(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out after the encoder, where states begin to be copied."""
    sequences = randoms(67, [100, 100, 70, 40, 12])
    engine = Engine(load_model(model), policy=LongPolicy("window", 20), per_residue=True)
    expected = engine.embed(join(sequences)).residues
    fetch, fetched = ResidueStates.fetch, []

    def limited(*given: object) -> object:
        fetched.append(given)
        if len(fetched) in (1, 3):
            raise RuntimeError("can't allocate memory: you tried to allocate too much")
        return fetch(*given)

    monkeypatch.setattr(ResidueStates, "fetch", limited)
    found = engine.embed(join(sequences))
    assert len(fetched) > 4
    assert not found.skipped.any()
    for one, other in zip(found.residues, expected, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA driver error: out of memory"), True),
        (RuntimeError("Triton Error [CUDA]: Out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_how_torch_says_that_memory_is_out(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) == is_memory


TF32 = """
import torch
from embedome.engine.device import use_device
assert torch.get_float32_matmul_precision() != "highest"
use_device("cpu")
assert torch.get_float32_matmul_precision() == "highest"
assert not torch.backends.cuda.cudnn_sdp_enabled()
"""


@pytest.mark.slow
def test_float32_is_float32_where_the_environment_says_otherwise() -> None:
    environment = {**os.environ, "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    subprocess.run(python_command(TF32), check=True, env=environment)


def test_another_error_of_the_device_is_not_taken_for_memory(model: Path) -> None:
    engine = make_engine(model)

    def broken(groups: list[torch.Tensor]) -> list[torch.Tensor]:
        raise RuntimeError("device-side assert triggered")

    engine.encoder.stream = broken
    with pytest.raises(RuntimeError, match="device-side"):
        engine.embed(join(["ACD"]))


def test_an_attempt_leaves_the_batches_of_a_cpu_alone(model: Path) -> None:
    budgets = [Engine(load_model(model), attempt=attempt).token_budget for attempt in (1, 2, 40)]
    assert budgets == [4096, 4096, 4096]


def test_the_engine_tells_the_attempt(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedome.engine.engine.token_budget", lambda encoder, device, attempt, held: 1000 + attempt)
    assert Engine(load_model(model), attempt=3).token_budget == 1003


# Of a token in float32: 96 + 32 + 64 + 32 outputs of the matrices of a layer, and 8 hidden states of 32.
TOKEN_BYTES = 4 * (224 + 8 * 32)


@pytest.mark.parametrize(
    ("free", "attempt", "dtype", "tokens"),
    [
        (2 * TOKEN_BYTES * 1000, 1, torch.float32, 512),
        (2 * TOKEN_BYTES * 1024, 1, torch.float32, 1024),
        (2 * TOKEN_BYTES * 1024 - 1, 1, torch.float32, 512),
        (2 * TOKEN_BYTES * 1000, 2, torch.float32, 256),
        (2 * TOKEN_BYTES * 1000, 4, torch.float32, 64),
        (2 * TOKEN_BYTES * 1000, 40, torch.float32, 1),
        (2 * TOKEN_BYTES * 1000, 1, torch.bfloat16, 1024),
        (80 << 30, 1, torch.float32, 65536),
        (80 << 30, 3, torch.float32, 16384),
        (0, 1, torch.float32, 1),
    ],
)
def test_batches_of_a_gpu_fit_its_free_memory_twice(
    model: Path, monkeypatch: pytest.MonkeyPatch, free: int, attempt: int, dtype: torch.dtype, tokens: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    encoder = load_model(model).encoder.to(dtype)
    assert token_budget(encoder, torch.device("cuda"), attempt) == tokens


def test_the_embedding_alone_takes_the_largest_batches(model: Path) -> None:
    encoder = load_model(model).encoder
    encoder.layers = encoder.layers[:0]
    assert [token_budget(encoder, torch.device("cuda"), attempt) for attempt in (1, 2)] == [65536, 32768]


def test_a_cpu_takes_one_thread(model: Path) -> None:
    torch.set_num_threads(2)
    try:
        Engine(load_model(model))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)


# Half precision


def test_float16_is_near_float32(model: Path, reference: HuggingFace) -> None:
    sequences = randoms(61, [1, 5, 30, 62])
    found = Engine(load_model(model), dtype="float16").embed(join(sequences)).vectors["mean"].astype(np.float64)
    error = np.abs(found - np.stack([expected(reference, sequence) for sequence in sequences])).max()
    assert 1e-5 < error < 0.02
