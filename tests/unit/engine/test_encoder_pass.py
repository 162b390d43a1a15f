"""Hidden states of several layers by one pass of the encoder."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.engine.encoder_pass import number_layers
from embedome.engine.engine import Embedded, Engine
from embedome.engine.pooling import ResidueStates
from embedome.engine.windows import LongPolicy, Sequences
from embedome.models.directory import load_model
from helpers import small_run as line
from helpers.fake_cuda import FakeCuda
from helpers.saved_models import KINDS, make
from helpers.small_run import HuggingFace, assert_within_one_ulp

ARCHITECTURES = tuple(KINDS)
# Of mixed lengths, with windows of one length among them.
LENGTHS = [1, 7, 7, 38, 90, 2, 38, 61, 20]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(KINDS[name], tmp_path_factory.mktemp("model")) for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line.rough_model(tmp_path_factory.mktemp("pass") / "model", sizes={**line.SIZE, "layers": 4})


def sequences(seed: int = 1) -> Sequences:
    rng = random.Random(seed)
    return Sequences.join([line.random_sequence(rng, length).encode() for length in LENGTHS])


def embed(folder: Path, kind: str = "", **options: object) -> Embedded:
    model = load_model(folder, KINDS[kind].features if kind else "encoder")
    return Engine(model, **options).embed(sequences())


def depth(folder: Path, kind: str) -> int:
    return load_model(folder, KINDS[kind].features).encoder.n_layers


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_each_layer_has_the_bytes_of_a_run_of_its_own(folders: dict[str, Path], kind: str) -> None:
    options = {"policy": LongPolicy("window", 5, 30), "poolings": ("max", "mean"), "per_residue": True}
    layers = [*range(depth(folders[kind], kind) + 1)][::-1]
    found = embed(folders[kind], kind, layer=layers, **options)
    assert list(found.vectors) == [f"layer_{layer}_{pooling}" for layer in layers for pooling in ("max", "mean")]
    for place, layer in enumerate(layers):
        alone = embed(folders[kind], kind, layer=layer, **options)
        for pooling, vectors in alone.vectors.items():
            assert np.array_equal(found.vectors[f"layer_{layer}_{pooling}"], vectors)
        for several, one in zip(found.residues, alone.residues, strict=True):
            assert several.shape == (len(one), len(layers), one.shape[1])
            assert np.array_equal(several[:, place], one)
    assert len({vectors.tobytes() for vectors in found.vectors.values()}) == len(found.vectors)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
@pytest.mark.parametrize("policy", ["truncate", "skip"])
def test_narrow_types_have_the_bytes_of_a_run_of_its_own(rough: Path, dtype: str, policy: str) -> None:
    options = {"dtype": dtype, "policy": LongPolicy(policy), "per_residue": True}
    found = embed(rough, layer=(1, 4, 0), **options)
    for place, layer in enumerate((1, 4, 0)):
        alone = embed(rough, layer=layer, **options)
        assert np.array_equal(found.vectors[f"layer_{layer}_mean"], alone.vectors["mean"])
        assert all(np.array_equal(s[:, place], a) for s, a in zip(found.residues, alone.residues, strict=True))


def test_they_are_the_hidden_states_of_hugging_face(rough: Path) -> None:
    reference, given = HuggingFace(rough), sequences()
    found = embed(rough, layer=(2, -1, 0, 3))
    assert list(found.vectors) == ["layer_2_mean", "layer_4_mean", "layer_0_mean", "layer_3_mean"]
    for row, (begin, end) in enumerate(zip(given.offsets, given.offsets[1:], strict=False)):
        text = given.residues[begin:end].tobytes().decode()[: line.MAX_RESIDUES]
        with torch.inference_mode():
            inputs = reference.tokenizer(text, return_tensors="pt")
            states = reference.model(**inputs, output_hidden_states=True).hidden_states
        for layer in (2, 4, 0, 3):
            exact = states[layer][0, 1:-1].double().mean(0).numpy()
            assert_within_one_ulp(found.vectors[f"layer_{layer}_mean"][row], exact)


def test_the_encoder_runs_once_and_no_deeper_than_asked(rough: Path) -> None:
    engine = Engine(load_model(rough), layer=[3, 1])
    calls: Counter[int] = Counter()
    for number, layer in enumerate(engine.encoder.layers, 1):
        layer.register_forward_hook(lambda module, given, found, number=number: calls.update([number]))
    engine.embed(sequences())
    assert calls == {1: 1, 2: 1, 3: 1}


def test_one_layer_in_a_list_is_that_layer(rough: Path) -> None:
    one, other = embed(rough, layer=[2]), embed(rough, layer=2)
    assert list(one.vectors) == ["mean"]
    assert np.array_equal(one.vectors["mean"], other.vectors["mean"])


def test_a_vector_that_is_not_finite_in_any_layer_skips_its_sequence(rough: Path) -> None:
    model = load_model(rough)
    with torch.no_grad():
        model.encoder.layers[1].mlp_out.bias[0] = 1e6
        model.encoder.layers[2].mlp_out.bias[0] = -1e6
    found = Engine(model, layer=[1, 2, 3]).embed(sequences())
    assert np.isinf(found.vectors["layer_2_mean"]).any()
    assert np.isfinite(found.vectors["layer_3_mean"]).all()
    assert set(found.state.tolist()) == {"non-finite"}
    assert found.skipped.all()


def test_a_batch_that_is_tried_again_counts_once(rough: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out between two layers, when the first one's states are on their way already."""
    options = {"policy": LongPolicy("window", 20), "per_residue": True, "layer": (1, 2, 4)}
    expected = embed(rough, **options)
    engine, fetch, tried = Engine(load_model(rough), **options), ResidueStates.fetch, Counter()

    def limited(self: ResidueStates, layer: int, *given: object) -> object:
        tried[layer] += 1
        if layer == 2 and tried[layer] == 1:
            raise RuntimeError("can't allocate memory: you tried to allocate too much")
        return fetch(self, layer, *given)

    monkeypatch.setattr(ResidueStates, "fetch", limited)
    found = engine.embed(sequences())
    assert tried[1] > tried[4]
    assert not found.skipped.any()
    for name, vectors in expected.vectors.items():
        assert_within_one_ulp(found.vectors[name], vectors.astype(np.float64))
    for one, other in zip(found.residues, expected.residues, strict=True):
        assert_within_one_ulp(one, other.astype(np.float64))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([6, 12, 6], r"embed\.layer is 6, 12, 6; expected each layer once: 6 is there twice \(-1 is 33\)"),
        ([33, -1], r"33 is there twice"),
        ([0, -34], r"0 is there twice"),
        ([6, 34], r"embed\.layer is 34; expected 0 .* to 33"),
        ([-35], r"embed\.layer is -35; expected 0 .* to 33"),
        ([], r"embed\.layer is empty"),
    ],
)
def test_repeated_and_unknown_layers_are_refused(layers: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        number_layers(33, layers)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("fused", [False, True])
def test_on_a_gpu_the_host_waits_for_finished_vectors_only(
    rough: Path, monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr("embedome.engine.engine.check_close", lambda before, after: None)
    model = load_model(rough)
    with FakeCuda().entered() as cuda:
        engine = Engine(model, device="cuda", dtype="bfloat16", layer=(0, 2, 4), per_residue=True, fused=fused)
        engine.embed(sequences())
        cuda.copies.clear()
        found = engine.embed(sequences())
    assert cuda.copies["cpu to cuda, waited for"] == 0
    assert [each.shape[1] for each in found.residues] == [3] * len(LENGTHS)


def test_states_of_residues_on_their_way_count_in_a_gpus_budget(rough: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several layers they are on the device at once; pooled, one layer's states are."""
    monkeypatch.setattr("embedome.engine.engine.unused_memory", lambda device: 1 << 22)

    def budget(layer: int | tuple[int, ...], per_residue: bool) -> int:
        model = load_model(rough)
        with FakeCuda().entered():
            return Engine(model, device="cuda", layer=layer, per_residue=per_residue).token_budget

    every = (0, 1, 2, 3, 4)
    assert budget(4, True) == budget(4, False) == budget(every, False) == 1024
    assert budget(every, True) == 512
