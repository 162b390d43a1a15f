"""ESM-2 and T5 encoders, and their look-up tables, against the Hugging Face classes, one sequence at a time."""

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.embedding.cost import cost_of
from embedome.engine.engine import Engine
from embedome.engine.windows import LongPolicy, Sequences
from embedome.models.directory import Model, load_model, model_identity
from embedome.models.encoders.esm2 import rotary_frequencies
from embedome.models.encoders.t5 import RelativeBias
from embedome.models.tokenizer import load_tokenizer
from helpers.small_run import assert_within_one_ulp, random_sequence
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    EsmConfig,
    EsmForMaskedLM,
    EsmModel,
    EsmTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5Tokenizer,
)
from transformers.models.t5.modeling_t5 import T5Attention

# The order of every ESM-2 checkpoint.
ESM2_TOKENS = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
T5_SPECIAL = ["<pad>", "</s>", "<unk>"]
T5_RESIDUES = "ALGVSREDTIPKFQNYMHWC"  # Ankh's order
T5_RARE = "XBOUZ"
ESM2 = {
    "vocab_size": 33,
    "mask_token_id": 32,
    "pad_token_id": 1,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 1026,
    "layer_norm_eps": 1e-5,
    "position_embedding_type": "rotary",
    "emb_layer_norm_before": False,
    "token_dropout": True,
}
T5 = {
    "vocab_size": 40,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "relu",
}


def rough(kind: Callable[..., PreTrainedModel], *arguments: object, **options: object) -> PreTrainedModel:
    """A model in which every parameter is random and matters: norms too, and the relative bias as the scores."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        model = kind(*arguments, **options)
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            parameter += noise if "relative_attention_bias" in name else 0.1 * noise
    return model


def write_vocab_txt(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(ESM2_TOKENS))


def write_prott5_tokenizer(folder: Path, residues: str = T5_RESIDUES + T5_RARE, extra: tuple[str, ...] = ()) -> None:
    """Pieces of residues behind a space."""
    pieces = [(token, 0.0) for token in T5_SPECIAL] + [(f"▁{residue}", -2.0) for residue in residues]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=5)
    tokenizer.add_tokens(list(extra), special_tokens=True)
    tokenizer.save_pretrained(folder)


def write_ankh_tokenizer(folder: Path, residues: str = T5_RESIDUES + T5_RARE) -> None:
    """Pieces of bare residues."""
    tokenizer = Tokenizer(models.Unigram([(token, 0.0) for token in [*T5_SPECIAL, *residues]], unk_id=2))
    save_t5_tokenizer(tokenizer, folder)


def save_t5_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)


def make_esm2(folder: Path, **changes: object) -> Path:
    rough(EsmModel, EsmConfig(**{**ESM2, **changes}), add_pooling_layer=False).save_pretrained(folder)
    write_vocab_txt(folder)
    return folder


def make_t5(folder: Path, **changes: object) -> Path:
    rough(T5EncoderModel, T5Config(**{**T5, **changes})).save_pretrained(folder)
    write_prott5_tokenizer(folder)
    return folder


@dataclass(frozen=True)
class Reference:
    """The Hugging Face class in float32 on one sequence at a time, without mask or padding."""

    model: PreTrainedModel
    first: tuple[int, ...]
    last: tuple[int, ...]
    order: list[str]

    @torch.inference_mode()
    def hidden(self, sequence: str) -> np.ndarray:
        """Hidden states of all tokens, float32 [L, D]."""
        ids = [*self.first, *map(self.order.index, sequence), *self.last]
        return self.model(torch.tensor([ids])).last_hidden_state[0].numpy()

    def mean(self, sequence: str) -> np.ndarray:
        start = len(self.first)
        return self.hidden(sequence)[start : start + len(sequence)].astype(np.float64).mean(0)


def esm2_reference(folder: Path) -> Reference:
    model = EsmModel.from_pretrained(folder, add_pooling_layer=False).float().eval()
    return Reference(model, (0,), (2,), ESM2_TOKENS)


def t5_reference(folder: Path) -> Reference:
    model = T5EncoderModel.from_pretrained(folder).float().eval()
    return Reference(model, (), (1,), [*T5_SPECIAL, *T5_RESIDUES, *T5_RARE])


KINDS: dict[str, tuple[Callable[..., Path], Callable[[Path], Reference], dict]] = {
    "esm2": (make_esm2, esm2_reference, {}),
    "esm2, no token dropout": (make_esm2, esm2_reference, {"token_dropout": False}),
    "esm2, another theta": (make_esm2, esm2_reference, {"rope_theta": 500.0}),
    "t5 relu": (make_t5, t5_reference, {}),
    "t5 gated-gelu": (make_t5, t5_reference, {"feed_forward_proj": "gated-gelu"}),
    "t5 gated-silu 64": (
        make_t5,
        t5_reference,
        {"feed_forward_proj": "gated-silu", "relative_attention_num_buckets": 64},
    ),
    "t5 gelu 20/50": (
        make_t5,
        t5_reference,
        {
            "feed_forward_proj": "gelu",
            "relative_attention_num_buckets": 20,
            "relative_attention_max_distance": 50,
            "layer_norm_epsilon": 1e-3,
        },
    ),
}


@dataclass(frozen=True)
class Pair:
    folder: Path
    model: Model
    reference: Reference


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    make, reference, changes = KINDS[request.param]
    folder = make(tmp_path_factory.mktemp("encoders") / "model", **changes)
    return Pair(folder, load_model(folder), reference(folder))


@pytest.fixture
def esm2(tmp_path: Path) -> Path:
    return make_esm2(tmp_path / "esm2")


@pytest.fixture
def t5(tmp_path: Path) -> Path:
    return make_t5(tmp_path / "t5", feed_forward_proj="gated-silu")


def randoms(seed: int, lengths: list[int]) -> list[str]:
    rng = random.Random(seed)
    return [random_sequence(rng, length) for length in lengths]


def join(sequences: list[str]) -> Sequences:
    return Sequences.join([sequence.encode() for sequence in sequences])


@torch.inference_mode()
def hidden(model: Model, sequences: list[str]) -> np.ndarray:
    residues = np.array([list(sequence.encode()) for sequence in sequences], np.uint8)
    return model.encoder(torch.from_numpy(model.tokenizer.tokens(residues))).numpy()


def assert_equal_hidden(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


# Hidden states and vectors


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_hidden_states_equal_hugging_face(pair: Pair, batch: int) -> None:
    for length in [1, 2, 3, *range(4 + batch, 81, 7), 80]:
        sequences = randoms(100 * batch + length, [length] * batch)
        for mine, sequence in zip(hidden(pair.model, sequences), sequences, strict=True):
            assert_equal_hidden(mine, pair.reference.hidden(sequence))


@pytest.mark.parametrize("length", [127, 128, 129, 300, 511, 767, 1022])
def test_hidden_states_beyond_the_largest_distance(pair: Pair, length: int) -> None:
    sequences = randoms(length, [length] * 2)
    for mine, sequence in zip(hidden(pair.model, sequences), sequences, strict=True):
        assert_equal_hidden(mine, pair.reference.hidden(sequence))


def test_groups_of_several_lengths_at_once(pair: Pair) -> None:
    groups = [randoms(number, [length] * batch) for number, (batch, length) in enumerate([(1, 300), (3, 80), (2, 7)])]
    residues = [np.array([list(each.encode()) for each in group], np.uint8) for group in groups]
    with torch.inference_mode():
        found = pair.model.encoder.stream([torch.from_numpy(pair.model.tokenizer.tokens(each)) for each in residues])
    for group, states in zip(groups, found, strict=True):
        for sequence, mine in zip(group, states.numpy(), strict=True):
            assert_equal_hidden(mine, pair.reference.hidden(sequence))


@pytest.mark.parametrize("budget", [1, 150, 4096])
def test_vectors_equal_the_mean_over_residues(pair: Pair, budget: int) -> None:
    sequences = randoms(7, [*range(1, 40, 3), 5, 5, 5, 33, 80, 33, 150, 1])
    engine = Engine(load_model(pair.folder))
    engine.token_budget = budget
    found = engine.embed(join(sequences))
    assert_within_one_ulp(found.vectors["mean"], np.stack([pair.reference.mean(sequence) for sequence in sequences]))
    assert found.used.tolist() == [len(sequence) for sequence in sequences]
    assert set(found.state.tolist()) == {"embedded"}
    assert not found.skipped.any()


def test_bfloat16_is_near_float32(pair: Pair) -> None:
    sequences = randoms(13, [1, 30, 80, 900])
    exact = np.stack([pair.reference.mean(sequence) for sequence in sequences])
    found = Engine(load_model(pair.folder), dtype="bfloat16").embed(join(sequences)).vectors["mean"].astype(np.float64)
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert 1e-4 < error < 0.1  # another precision, not another result


def test_gradients_do_not_mix_with_inference(pair: Pair) -> None:
    (sequence,) = randoms(3, [20])
    expected = hidden(pair.model, [sequence])
    tokens = torch.from_numpy(pair.model.tokenizer.tokens(np.frombuffer(sequence.encode(), np.uint8)[None]))
    found = pair.model.encoder(tokens)
    found.sum().backward()
    assert_equal_hidden(found.detach().numpy(), expected)
    pair.model.encoder.zero_grad()


def test_predicted_cost_grows_with_length(pair: Pair) -> None:
    costs = cost_of(pair.model.encoder, pair.model.max_residues, 5e10).picoseconds(np.array([10, 100, 1000, 5000]))
    assert (np.diff(costs) > 0).all()


# ESM-2


def test_esm2_takes_the_residues_it_was_trained_on(esm2: Path) -> None:
    model = load_model(esm2)
    assert model.max_residues == 1022
    sequences = randoms(5, [1022, 1023, 1500])
    found = Engine(model).embed(join(sequences))
    reference = esm2_reference(esm2)
    assert_within_one_ulp(found.vectors["mean"], np.stack([reference.mean(sequence[:1022]) for sequence in sequences]))
    assert found.state.tolist() == ["embedded", "truncated", "truncated"]


def test_token_dropout_scales_by_what_was_left(tmp_path: Path) -> None:
    with_dropout = load_model(make_esm2(tmp_path / "with")).encoder
    without = load_model(make_esm2(tmp_path / "without", token_dropout=False)).encoder
    assert torch.equal(with_dropout.words.weight, without.words.weight)
    tokens = torch.tensor([[0, 5, 6, 2]])
    torch.testing.assert_close(with_dropout.embed(tokens), 0.88 * without.embed(tokens))
    sequence = ["MKTAYIAKQR"]
    difference = hidden(load_model(tmp_path / "with"), sequence) - hidden(load_model(tmp_path / "without"), sequence)
    assert np.abs(difference).max() > 0.01


@pytest.mark.parametrize("dropout", [True, False])
def test_masked_tokens_are_dropped_sequence_by_sequence(tmp_path: Path, dropout: bool) -> None:
    folder = make_esm2(tmp_path, token_dropout=dropout)
    reference, encoder = EsmModel.from_pretrained(folder, add_pooling_layer=False).eval(), load_model(folder).encoder
    batch = torch.randint(4, 24, (5, 30), generator=torch.Generator().manual_seed(1))
    for row, masks in enumerate([0, 1, 3, 17, 29]):
        batch[row, 1 : 1 + masks] = 32
    with torch.inference_mode():
        found = encoder(batch)
        for row in range(5):
            exact = reference(batch[row : row + 1]).last_hidden_state[0]
            assert (found[row] - exact).abs().max() < 2e-5 * exact.abs().max()


def edit_weights(folder: Path, change: Callable[[dict], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


FREQUENCIES = "encoder.layer.*.attention.self.rotary_embeddings.inv_freq"


def renamed_layer_norms(weights: dict) -> dict:
    """The names that older releases of transformers saved."""
    return {name.replace(".gamma", ".weight").replace(".beta", ".bias"): weights[name] for name in weights}


def frequencies_per_layer(weights: dict) -> None:
    frequencies = weights.pop(FREQUENCIES)
    for layer in range(2):
        weights[f"encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = frequencies.half()
    old = renamed_layer_norms(weights)
    weights.clear()
    weights.update(old)


def frequencies_of_the_model(weights: dict) -> None:
    weights["rotary_embeddings.inv_freq"] = 1.5 * weights.pop(FREQUENCIES)


@pytest.mark.parametrize(
    "change", [frequencies_per_layer, frequencies_of_the_model, lambda weights: weights.pop(FREQUENCIES)]
)
def test_frequencies_are_found_where_hugging_face_finds_them(esm2: Path, change: Callable[[dict], object]) -> None:
    edit_weights(esm2, change)
    reference = esm2_reference(esm2)
    model = load_model(esm2)
    assert torch.equal(model.encoder.rotary.frequencies, reference.model.rotary_embeddings.inv_freq)
    (sequence,) = randoms(1, [60])
    assert_equal_hidden(hidden(model, [sequence])[0], reference.hidden(sequence))


def test_frequencies_stay_exact_in_bfloat16(esm2: Path) -> None:
    encoder = load_model(esm2).encoder.to(torch.bfloat16)
    assert encoder.words.weight.dtype == torch.bfloat16
    assert encoder.rotary.frequencies.dtype == torch.float32
    assert torch.equal(encoder.rotary.frequencies, rotary_frequencies({}, ESM2))


def test_esm2_saved_with_its_head(tmp_path: Path) -> None:
    rough(EsmForMaskedLM, EsmConfig(**ESM2)).save_pretrained(tmp_path)
    write_vocab_txt(tmp_path)
    assert any(name.startswith("esm.") for name in load_file(tmp_path / "model.safetensors"))
    (sequence,) = randoms(2, [50])
    assert_equal_hidden(hidden(load_model(tmp_path), [sequence])[0], esm2_reference(tmp_path).hidden(sequence))


# T5


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (64, 128), (32, 20), (8, 1000), (4, 2)])
def test_classes_of_distances_equal_hugging_face(buckets: int, distance: int) -> None:
    distances = torch.arange(-3000, 3001)
    expected = T5Attention._relative_position_bucket(distances, True, buckets, distance)
    assert torch.equal(RelativeBias(2, buckets, distance).buckets(distances), expected)


@pytest.mark.parametrize("length", [1, 3, 4, 9])
@pytest.mark.parametrize("causal", [False, True])
def test_the_bias_of_each_query_and_key_is_that_of_their_distance(
    length: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedome.models.encoders.t5.BIAS_QUERIES", 4)
    bias = RelativeBias(2, 8, 5, causal=causal)
    with torch.inference_mode():
        bias.table.weight.normal_()
        found = bias(length)
        for query in range(length):
            for key in range(length):
                row = bias.table.weight[bias.buckets(torch.tensor([key - query]))][0]
                hidden = causal and key > query
                assert torch.equal(found[0, :, query, key], torch.full((2,), float("-inf")) if hidden else row)


@torch.inference_mode()
def test_bias_is_kept_for_one_length(t5: Path) -> None:
    bias = load_model(t5).encoder.bias
    weight = bias.table.weight
    first = bias(17)
    assert first.shape == (1, 4, 17, 17)
    for query, key in [(0, 0), (3, 9), (16, 0), (0, 16)]:
        assert torch.equal(first[0, :, query, key], weight[bias.buckets(torch.tensor(key - query))])
    assert bias(17) is first
    assert bias(18).shape == (1, 4, 18, 18)
    assert torch.equal(bias(17), first)
    bias.to(torch.bfloat16)
    assert bias(17).dtype == torch.bfloat16


def test_t5_has_no_longest_sequence(t5: Path) -> None:
    sequences = randoms(5, [3, 1200])
    expected = np.stack([t5_reference(t5).mean(sequence) for sequence in sequences])
    for policy in (LongPolicy("truncate"), LongPolicy("skip"), LongPolicy("window", 5000)):
        model = load_model(t5)
        assert model.max_residues is None
        found = Engine(model, policy=policy).embed(join(sequences))
        assert_within_one_ulp(found.vectors["mean"], expected)
        assert found.used.tolist() == [3, 1200]
        assert found.state.tolist() == ["embedded", "embedded"]
        assert not found.skipped.any()


def test_negative_overlap_is_refused_without_a_limit(t5: Path) -> None:
    with pytest.raises(UserError, match=r"embed\.overlap is -1; expected 0 or more$"):
        Engine(load_model(t5), policy=LongPolicy("window", -1))


def test_t5_saved_with_its_decoder(tmp_path: Path) -> None:
    rough(T5ForConditionalGeneration, T5Config(**T5)).save_pretrained(tmp_path)
    write_prott5_tokenizer(tmp_path)
    (sequence,) = randoms(2, [50])
    expected = t5_reference(tmp_path).hidden(sequence)
    assert_equal_hidden(hidden(load_model(tmp_path), [sequence])[0], expected)
    edit_weights(tmp_path, lambda w: w.update({"encoder.embed_tokens.weight": w.pop("shared.weight")}))
    assert_equal_hidden(hidden(load_model(tmp_path), [sequence])[0], expected)


def edit_config(folder: Path, change: Callable[[dict], object]) -> None:
    found = json.loads((folder / "config.json").read_text())
    change(found)
    (folder / "config.json").write_text(json.dumps(found))


def first_configuration(config: dict) -> None:
    """Without the fields that came later, and with n_positions, as ProtT5 has it."""
    for field in ("relative_attention_max_distance", "feed_forward_proj", "dense_act_fn", "is_gated_act"):
        config.pop(field)
    config["n_positions"] = 512


def another_activation(config: dict) -> None:
    config["dense_act_fn"] = "silu"


@pytest.mark.parametrize("change", [first_configuration, another_activation])
def test_configurations_are_read_as_hugging_face_reads_them(tmp_path: Path, change: Callable[[dict], None]) -> None:
    folder = make_t5(tmp_path)
    edit_config(folder, change)
    model, reference = load_model(folder), t5_reference(folder)
    assert model.max_residues is None
    (sequence,) = randoms(4, [200])
    assert_equal_hidden(hidden(model, [sequence])[0], reference.hidden(sequence))


# Tokens


def tokens(model: Model, text: str) -> list[int]:
    return model.tokenizer.tokens(np.frombuffer(text.encode(), np.uint8)[None])[0].tolist()


def test_esm2_ids_equal_its_tokenizer(esm2: Path) -> None:
    model, hugging_face = load_model(esm2), EsmTokenizer(str(esm2 / "vocab.txt"))
    for text in ["M", "LAGVSERTIDPKQNFYMHWCXBUZO.-", "MJA", "A*MK", *randoms(1, [30, 100])]:
        assert tokens(model, text) == hugging_face(text).input_ids
    assert tokens(model, "MK") == [0, 20, 15, 2]
    # Hugging Face makes one token of both, which loses the alignment with the residues.
    assert tokens(model, "JJ") == [0, 3, 3, 2]


@pytest.mark.parametrize("residues", [T5_RESIDUES + T5_RARE, T5_RESIDUES + "X"])
def test_prott5_ids_equal_its_tokenizer_as_its_authors_use_it(tmp_path: Path, residues: str) -> None:
    folder = make_t5(tmp_path)
    write_prott5_tokenizer(folder, residues)
    model, hugging_face = load_model(folder), AutoTokenizer.from_pretrained(folder)
    for text in ["M", T5_RESIDUES, "MUZOBXA", *randoms(2, [30, 100])]:
        assert tokens(model, text) == hugging_face(" ".join(re.sub("[UZOB]", "X", text))).input_ids
    assert tokens(model, "AJ*") == [3, 2, 2, 1]


def test_ankh_ids_equal_its_tokenizer(tmp_path: Path) -> None:
    folder = make_t5(tmp_path)
    write_ankh_tokenizer(folder)
    model, hugging_face = load_model(folder), AutoTokenizer.from_pretrained(folder)
    for text in ["M", T5_RESIDUES + T5_RARE, "MUZOBXA", "A*C", *randoms(3, [30, 100])]:
        assert tokens(model, text) == hugging_face(text).input_ids
        assert tokens(model, text) == hugging_face(list(text), is_split_into_words=True).input_ids
    assert tokens(model, "AJ*") == [3, 2, 2, 1]
    write_ankh_tokenizer(folder, T5_RESIDUES)
    assert tokens(load_model(folder), "AUJX") == [3, 2, 2, 2, 1]


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from(T5_RESIDUES + T5_RARE), min_size=1, max_size=60), isolated=st.booleans())
def test_residues_with_two_pieces(tmp_path_factory: pytest.TempPathFactory, text: str, isolated: bool) -> None:
    """Which piece it is depends on how the tokenizer cuts a sequence; the table takes the one inside."""
    pieces = [*T5_SPECIAL, *T5_RESIDUES, *T5_RARE, *(f"▁{residue}" for residue in T5_RESIDUES + T5_RARE)]
    tokenizer = Tokenizer(models.Unigram([(piece, -2.0) for piece in pieces], unk_id=2))
    space = pre_tokenizers.Metaspace(prepend_scheme="always")
    split = pre_tokenizers.Split("", behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, space]) if isolated else space
    folder = tmp_path_factory.mktemp("pieces")
    save_t5_tokenizer(tokenizer, folder)
    table = load_tokenizer(folder, None, "</s>")
    found = table.tokens(np.frombuffer(text.encode(), np.uint8)[None])[0].tolist()
    assert found[1:] == AutoTokenizer.from_pretrained(folder)(text).input_ids[1:]


@pytest.mark.parametrize("task", ["<AA2fold>", "[NLU]"])
def test_a_task_goes_before_the_sequence(tmp_path: Path, task: str) -> None:
    folder = make_t5(tmp_path)
    write_prott5_tokenizer(folder, extra=("<fold2AA>", task))
    model, hugging_face = load_model(folder), AutoTokenizer.from_pretrained(folder)
    (sequence,) = randoms(6, [40])
    ids = hugging_face(f"{task} {' '.join(sequence)}").input_ids
    assert tokens(model, sequence) == ids
    assert ids[0] == hugging_face.convert_tokens_to_ids(task)
    reference = t5_reference(folder).model
    with torch.inference_mode():
        expected = reference(torch.tensor([ids])).last_hidden_state[0, 1:-1].double().mean(0).numpy()
    assert_within_one_ulp(Engine(model).embed(join([sequence])).vectors["mean"], expected[None])


def test_truncation_and_padding_of_a_tokenizer_do_not_reach_the_table(t5: Path) -> None:
    expected = load_model(t5).tokenizer.table
    path = t5 / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(path))
    assert np.array_equal(load_model(t5).tokenizer.table, expected)


def test_identity_is_of_the_vocabulary_that_is_used(esm2: Path) -> None:
    assert model_identity(esm2)["tokenizer_sha256"] == hashlib.sha256((esm2 / "vocab.txt").read_bytes()).hexdigest()
    vocabulary = {token: index for index, token in enumerate(ESM2_TOKENS)}
    path = esm2 / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}}))
    assert model_identity(esm2)["tokenizer_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    table = load_model(esm2).tokenizer.table
    path.unlink()
    assert np.array_equal(load_model(esm2).tokenizer.table, table)


def test_special_tokens_may_be_beside_the_vocabulary(esm2: Path) -> None:
    expected = load_model(esm2).tokenizer.tokens(np.array([list(b"MKT")], np.uint8))
    vocabulary = {token: index for index, token in enumerate(ESM2_TOKENS) if token not in ("<cls>", "<eos>")}
    added = [{"id": 0, "content": "<cls>"}, {"id": 2, "content": "<eos>"}]
    (esm2 / "tokenizer.json").write_text(
        json.dumps({"added_tokens": added, "model": {"vocab": vocabulary, "unk_token": "<unk>"}})
    )
    found = load_model(esm2).tokenizer.tokens(np.array([list(b"MKT")], np.uint8))
    assert np.array_equal(found, expected)


def test_sentencepiece_alone_asks_for_a_tokenizer_json(t5: Path) -> None:
    for path in t5.glob("*token*.json"):
        path.unlink()
    (t5 / "spiece.model").write_bytes(b"\x0a\x0e")
    assert model_identity(t5)["tokenizer_sha256"] == hashlib.sha256(b"\x0a\x0e").hexdigest()
    with pytest.raises(UserError, match=r"spiece\.model: .*save_pretrained") as excinfo:
        load_model(t5)
    assert "\n" not in str(excinfo.value)
    # Transformers would read these, too.
    (t5 / "added_tokens.json").write_text("{}")
    assert model_identity(t5)["tokenizer_sha256"] == hashlib.sha256(b"\x0a\x0e{}").hexdigest()


def test_structure_states_without_a_task_are_refused(t5: Path) -> None:
    """ProstT5's spiece.model has them, its added_tokens.json the tasks."""
    path = t5 / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] += [["▁v", 0.0], ["▁d", 0.0]]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"lacks <AA2fold>; copy the model's added_tokens\.json, too"):
        load_model(t5)


@pytest.mark.skipif(not find_spec("sentencepiece"), reason="sentencepiece is not installed")
@pytest.mark.parametrize(("kind", "space"), [("word", " "), ("unigram", " "), ("char", "")])
def test_sentencepiece_alone_is_read_where_it_can_be(t5: Path, kind: str, space: str) -> None:
    import sentencepiece

    rng = random.Random(1)
    lines = [space.join(rng.choices(T5_RESIDUES + T5_RARE, k=50)) for _ in range(500)]
    (t5 / "tokenizer.json").unlink()
    (t5 / "text").write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(t5 / "text"),
        model_prefix=str(t5 / "spiece"),
        vocab_size=29,
        model_type=kind,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    model, hugging_face = load_model(t5), AutoTokenizer.from_pretrained(t5)
    for text in randoms(3, [30, 100]):
        asked = " ".join(text) if kind == "word" else text
        assert tokens(model, text)[1:] == hugging_face(asked).input_ids[-len(text) :]


# Refusals


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as excinfo:
        load_model(folder)
    assert "\n" not in str(excinfo.value)
    return str(excinfo.value)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"position_embedding_type": "absolute"}, "position_embedding_type is 'absolute'; expected 'rotary'"),
        ({"position_embedding_type": None}, "position_embedding_type is missing"),
        ({"emb_layer_norm_before": True}, "emb_layer_norm_before is True"),
        ({"is_folding_model": True}, "is_folding_model is True"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"token_dropout": None}, "token_dropout is missing"),
        ({"num_attention_heads": 5}, "hidden_size is 32; expected a multiple of twice num_attention_heads, 5"),
        ({"max_position_embeddings": None}, "max_position_embeddings is missing"),
    ],
)
def test_what_is_not_esm2_is_refused(esm2: Path, change: dict, what: str) -> None:
    def edit(config: dict) -> None:
        config.update(change)
        for field, value in change.items():
            if value is None:
                del config[field]

    edit_config(esm2, edit)
    assert f"config.json: {what}" in refusal(esm2)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"feed_forward_proj": "gated-tanh", "dense_act_fn": "tanh"}, "feed_forward_proj is 'gated-tanh'"),
        ({"relative_attention_num_buckets": 2}, "relative_attention_num_buckets is 2; expected 4 or more"),
        ({"relative_attention_max_distance": 8}, "relative_attention_max_distance is 8; expected more"),
    ],
)
def test_what_is_not_t5_is_refused(t5: Path, change: dict, what: str) -> None:
    edit_config(t5, lambda config: config.update(change))
    assert f"config.json: {what}" in refusal(t5)


@pytest.mark.parametrize("make", [make_esm2, make_t5])
def test_every_tensor_is_needed_in_its_shape(tmp_path: Path, make: Callable[..., Path]) -> None:
    folder = make(tmp_path / "model")
    path = folder / "model.safetensors"
    whole = load_file(path)
    unused = [name for name in whole if "contact_head" in name]
    for name in whole.keys() - unused - {FREQUENCIES}:
        save_file({other: tensor for other, tensor in whole.items() if other != name}, path)
        told = name.replace(".gamma", ".weight").replace(".beta", ".bias").replace("shared", "encoder.embed_tokens")
        assert f"{told} is missing" in refusal(folder)
    for name in whole.keys() - unused:
        save_file({**whole, name: torch.cat([whole[name], whole[name]])}, path)
        assert "shape" in refusal(folder)
        broken = whole[name].clone()
        broken.view(-1)[-1] = torch.nan
        save_file({**whole, name: broken}, path)
        assert "holds NaN or infinity" in refusal(folder)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"<cls>\n<pad>\n<eos>\nL\nA\n", "expected a vocabulary with an unknown token"),
        ("\n".join(ESM2_TOKENS).replace("<cls>", "<s>").encode(), "lacks <cls>;"),
        ("\n".join(ESM2_TOKENS).replace("W", "w").encode(), "lacks W;"),
        (b"<unk>\n\xff\xfe", "not a text file"),
        ("\n".join([*(["x"] * 33), *ESM2_TOKENS]).encode(), "tokenizer has 64 tokens, but the model only 33"),
    ],
)
def test_other_vocabularies_are_refused(esm2: Path, text: bytes, what: str) -> None:
    (esm2 / "vocab.txt").write_bytes(text)
    assert what in refusal(esm2)


def t5_json(pieces: list[str], unknown: int | None = 2, **changes: object) -> str:
    vocabulary = [[piece, -2.0] for piece in [*T5_SPECIAL, *pieces]]
    return json.dumps(
        {"version": "1.0", "model": {"type": "Unigram", "unk_id": unknown, "vocab": vocabulary}} | changes
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (t5_json([*T5_RESIDUES, "AL"]), "expected a vocabulary of single residues, but it has 'AL'"),
        (t5_json([*(f"▁{residue}" for residue in T5_RESIDUES), "▁LLL"]), "single residues, but it has 'LLL'"),
        (t5_json([*T5_RESIDUES], None), "expected a vocabulary with an unknown token"),
        (t5_json([*T5_RESIDUES[:-1]]), "lacks C;"),
        (t5_json([]), "lacks A, C, D"),
        (t5_json([*T5_RESIDUES], normalizer="?"), "not a readable tokenizer"),
        (
            json.dumps({"model": {"vocab": {"<unk>": 0, "A": 1}, "unk_token": "<unk>", "merges": [["A", "A"]]}}),
            "single residues, but this one merges them",
        ),
    ],
)
def test_other_tokenizers_are_refused(t5: Path, text: str, what: str) -> None:
    (t5 / "tokenizer.json").write_text(text)
    found = refusal(t5)
    assert "tokenizer.json: " in found
    assert what in found


def test_no_vocabulary_is_refused_with_what_there_may_be(esm2: Path) -> None:
    shutil.move(esm2 / "vocab.txt", esm2 / "vocabulary.txt")
    assert refusal(esm2).endswith("the model directory has no tokenizer.json, vocab.txt or spiece.model")
