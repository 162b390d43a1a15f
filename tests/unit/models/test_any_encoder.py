"""Encoders that embedome has none for: transformers' own class runs them, exactly, or they are refused."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from embedome.common.errors import UserError
from embedome.decoding.masked_lm import load_masked_lm
from embedome.engine.engine import Engine
from embedome.engine.windows import LongPolicy
from embedome.models.directory import empty_model, load_model, model_dimension, model_identity
from embedome.models.encoders.any_encoder import AnyEncoder
from embedome.models.encoders.flops import operations
from embedome.models.vocabularies import VOCABULARIES, save_tokenizer
from helpers.rough_encoders import (
    Reference,
    assert_equal_hidden,
    edit_config,
    edit_weights,
    hidden,
    join,
    randoms,
    refusal,
    rough,
    tokens,
)
from helpers.small_run import assert_within_one_ulp

SIZES = {"vocab_size": 30, "max_position_embeddings": 300}
MODERNBERT = {
    **SIZES,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "local_attention": 16,
    "global_attn_every_n_layers": 2,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
DISTILBERT = {**SIZES, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "pad_token_id": 0}
CAMEMBERT = {
    **SIZES,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": 0,
}
# Classes that save, their configurations, and the layers and longest sequences of these.
KINDS: dict[str, tuple[str, dict, int, int]] = {
    "modernbert": ("ModernBert", MODERNBERT, 4, 298),
    "distilbert": ("DistilBert", DISTILBERT, 3, 298),
    "camembert": ("Camembert", CAMEMBERT, 2, 297),  # its positions begin after the padding's
}


def make(folder: Path, name: str, head: str = "Model", **changes: object) -> Path:
    """A model in which every parameter matters, with ProtBERT's vocabulary."""
    kind, sizes, _, _ = KINDS[name]
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **changes})
    rough(getattr(transformers, f"{kind}{head}"), config).save_pretrained(folder)
    save_tokenizer(folder, "protbert", None)
    return folder


def reference(folder: Path) -> Reference:
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").float().eval()
    return Reference(model, (2,), (3,), list(VOCABULARIES["protbert"].tokens))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("any") / kind, kind)


# What is run


def test_hidden_states_equal_the_class_one_sequence_at_a_time(kind: str, folder: Path) -> None:
    model, exact = load_model(folder), reference(folder)
    assert model.max_residues == empty_model(folder).max_residues == KINDS[kind][3]
    for length in (1, 2, 17, 40, KINDS[kind][3]):
        sequences = randoms(length, [length] * 3)
        for mine, sequence in zip(hidden(model, sequences), sequences, strict=True):
            assert_equal_hidden(mine, exact.hidden(sequence))


@pytest.mark.slow
def test_vectors_do_not_depend_on_company(kind: str, folder: Path) -> None:
    sequences = randoms(7, [*range(1, 40, 5), 5, 5, 33, 80, 1])
    exact = np.stack([reference(folder).mean(sequence) for sequence in sequences])
    for budget in (1, 150, 4096):
        engine = Engine(load_model(folder))
        engine.token_budget = budget
        assert_within_one_ulp(engine.embed(join(sequences)).vectors["mean"], exact)


@pytest.mark.parametrize("layer", [0, 1, -2, -1])
@pytest.mark.slow
def test_every_layer_is_the_class_s(kind: str, folder: Path, layer: int) -> None:
    sequences = randoms(8, [3, 9, 9, 40])
    found = Engine(load_model(folder), layer=layer).embed(join(sequences)).vectors["mean"]
    exact = reference(folder)
    for vector, sequence in zip(found, sequences, strict=True):
        ids = torch.tensor([[2, *map(exact.order.index, sequence), 3]])
        with torch.inference_mode():
            output = exact.model(ids, output_hidden_states=True)
        states = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
        assert_within_one_ulp(vector, states[0, 1:-1].double().mean(0).numpy())


def test_watched_layers_hand_over_the_states_of_all_groups(kind: str, folder: Path) -> None:
    encoder, exact, seen = load_model(folder).encoder, reference(folder), {}
    encoder.layers[0].register_forward_pre_hook(lambda module, given: seen.update({0: given[0]}))
    encoder.layers[1].register_forward_hook(lambda module, given, found: seen.update({2: found}))
    groups = [torch.randint(5, 25, shape, generator=torch.Generator().manual_seed(2)) for shape in ((2, 9), (1, 4))]
    with torch.inference_mode():
        last = encoder.stream(groups)
        output = exact.model(groups[1], output_hidden_states=True)
    assert_equal_hidden(last[1].numpy(), output.last_hidden_state.numpy())
    states = [*output.hidden_states[:-1], output.last_hidden_state]
    for layer in (0, 2):
        assert seen[layer].shape == (22, 32)
        assert_equal_hidden(seen[layer][18:].numpy(), states[layer][0].numpy())


def test_bfloat16_keeps_angles(tmp_path: Path) -> None:
    """Those of rotary positions, which the class computes, stay in float32."""
    encoder = load_model(make(tmp_path, "modernbert")).encoder
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers() if "inv_freq" in name}
    encoder.to(torch.bfloat16)
    assert before
    assert encoder.words.weight.dtype == torch.bfloat16
    assert all(torch.equal(encoder.get_buffer(name), buffer) for name, buffer in before.items())


def test_tokens_are_those_of_the_tokenizer(kind: str, folder: Path) -> None:
    model, tokenizer = load_model(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in ["M", "MJA", *randoms(1, [30])]:
        assert tokens(model, text) == tokenizer(" ".join(text)).input_ids


def test_it_is_said_in_the_log_and_the_provenance(kind: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = f"{KINDS[kind][0]}Model of transformers {transformers.__version__}"
    with caplog.at_level(logging.WARNING):
        load_model(folder)
    assert f"embedome has no encoder for model_type {kind}; {name} runs it" in caplog.text
    assert model_identity(folder)["encoder"] == name
    assert model_dimension(folder) == 32


def test_loading_leaves_torch_s_random_numbers(folder: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_operations_count_attention(tmp_path: Path) -> None:
    linear, quadratic = operations(load_model(make(tmp_path, "distilbert")).encoder)
    assert quadratic == 4 * 3 * 32
    assert linear == 2 * 3 * (4 * 32 * 32 + 2 * 32 * 48)


# Tensors


def test_heads_are_left_aside(kind: str, tmp_path: Path) -> None:
    folder = make(tmp_path, kind, "ForMaskedLM")
    (sequence,) = randoms(2, [30])
    assert_equal_hidden(hidden(load_model(folder), [sequence])[0], reference(folder).hidden(sequence))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda w: w.update({"extra.weight": torch.ones(2)}), "extra.weight is no part of this model"),
        (lambda w: w.pop(sorted(w)[3]), "is missing"),
        (lambda w: w.update({name: w[name].to(torch.int8) for name in sorted(w)[:1]}), "is of type I8"),
        (lambda w: w.update({name: w[name] * torch.nan for name in sorted(w)[3:4]}), "holds NaN or infinity"),
        (lambda w: w.update({name: w[name][:1].clone() for name in sorted(w)[3:4]}), "has shape"),
        (lambda w: w.update({f"{sorted(w)[3]}.lora_A.default": torch.ones(2)}), "is of an adapter"),
    ],
)
@pytest.mark.slow
def test_tensors_are_used_or_known_or_refused(
    kind: str, tmp_path: Path, change: Callable[[dict], object], what: str
) -> None:
    folder = make(tmp_path, kind)
    edit_weights(folder, change)
    assert what in refusal(folder)


# What is refused


def test_a_causal_model_is_refused(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=30, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    rough(transformers.GPT2Model, config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, "protbert", None)
    assert "GPT2Model is causal" in refusal(tmp_path)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    config = transformers.BartConfig(vocab_size=30, d_model=32, encoder_layers=1, decoder_layers=1)
    transformers.BartModel(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, "protbert", None)
    assert "config.json: bart is no encoder alone" in refusal(tmp_path)


def test_an_encoder_whose_batches_matter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path, "distilbert")
    forward = transformers.DistilBertModel.forward

    def normed(self: object, input_ids: torch.Tensor, **options: object) -> object:
        found = forward(self, input_ids, **options)
        found.last_hidden_state = found.last_hidden_state - found.last_hidden_state.mean(0)
        return found

    monkeypatch.setattr(transformers.DistilBertModel, "forward", normed)
    assert "DistilBertModel gives a sequence other hidden states beside others than alone" in refusal(folder)


def test_positions_counted_in_another_way_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path, "camembert")
    monkeypatch.setattr("embedome.models.encoders.any_encoder.first_position", lambda table: 0)
    assert "CamembertModel counts positions in a way that is not known" in refusal(folder)


def test_tokens_that_are_not_residues_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path, "distilbert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghiklmnopqrstuvwy", "##ing"]
    transformers.BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
    assert "expected a vocabulary of single residues, but it has '##ing'" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"n_layers": 2**40}, "n_layers is 1099511627776; expected no number beyond"),
        ({"n_layers": 5000}, "num_hidden_layers is 5000; expected a whole number from 1 to 1000"),
        ({"dim": 0}, "hidden_size is 0; expected a whole number from 1"),
        ({"dim": "x"}, "transformers does not take it"),
        ({"activation": "nothing"}, "transformers does not take it"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config says that the model is quantised"),
        ({"model_type": "nothing"}, "model_type is 'nothing'; expected one of"),
    ],
)
def test_fields_that_the_class_does_not_take_are_refused(tmp_path: Path, change: dict, what: str) -> None:
    folder = make(tmp_path, "distilbert")
    edit_config(folder, lambda config: config.update(change))
    message = refusal(folder)
    assert "config.json: " in message
    assert what in message
    assert message.isprintable()


def test_what_is_of_embedome_s_own_encoders_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path, "distilbert")
    with pytest.raises(UserError, match="int8, which is for embedome's own encoders"):
        Engine(load_model(folder), dtype="int8")
    with pytest.raises(UserError, match="distilbert is no masked language model"):
        load_masked_lm(folder)
    assert isinstance(load_model(folder).encoder, AnyEncoder)
    assert json.loads((folder / "config.json").read_text())["dim"] == 32
    found = Engine(load_model(folder), policy=LongPolicy("window", 10, 100)).embed(join(randoms(3, [250])))
    assert found.state.tolist() == ["windowed"]
