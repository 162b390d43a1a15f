"""T5 encoders and their tokenizers against the Hugging Face classes, and what is refused."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from embedome.common.errors import UserError
from embedome.engine.engine import Engine
from embedome.engine.windows import LongPolicy
from embedome.models.directory import load_model
from embedome.models.encoders.t5 import RelativeBias
from helpers.rough_encoders import (
    T5,
    T5_RARE,
    T5_RESIDUES,
    T5_SPECIAL,
    assert_equal_hidden,
    edit_config,
    edit_weights,
    hidden,
    join,
    make_t5,
    randoms,
    refusal,
    rough,
    save_t5_tokenizer,
    t5_reference,
    tokens,
    write_prott5_tokenizer,
)
from helpers.small_run import assert_within_one_ulp
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.t5.modeling_t5 import T5Attention

# The encoder


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


# Tokens


def write_ankh_tokenizer(folder: Path, residues: str = T5_RESIDUES + T5_RARE) -> None:
    """Pieces of bare residues."""
    tokenizer = Tokenizer(models.Unigram([(token, 0.0) for token in [*T5_SPECIAL, *residues]], unk_id=2))
    save_t5_tokenizer(tokenizer, folder)


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


@pytest.mark.parametrize("isolated", [True, False])
def test_residues_with_two_pieces_are_refused(t5: Path, isolated: bool) -> None:
    """Which piece it is depends on how the tokenizer cuts a sequence."""
    pieces = [*T5_SPECIAL, *T5_RESIDUES, *T5_RARE, *(f"▁{residue}" for residue in T5_RESIDUES + T5_RARE)]
    tokenizer = Tokenizer(models.Unigram([(piece, -2.0) for piece in pieces], unk_id=2))
    space = pre_tokenizers.Metaspace(prepend_scheme="always")
    split = pre_tokenizers.Split("", behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, space]) if isolated else space
    save_t5_tokenizer(tokenizer, t5)
    assert "A is in the vocabulary twice, with a space before it and without" in refusal(t5)


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


def test_a_damaged_spiece_model_is_refused(t5: Path) -> None:
    for path in t5.glob("*token*.json"):
        path.unlink()
    for content in (b"", b"\x0a\x0e", b"version https://git-lfs.github.com/spec/v1\n"):
        (t5 / "spiece.model").write_bytes(content)
        found = refusal(t5)
        assert "spiece.model: transformers cannot read this" in found
        assert "tiktoken" not in found


def test_structure_states_without_a_task_are_refused(t5: Path) -> None:
    """ProstT5's spiece.model has them, its added_tokens.json the tasks."""
    path = t5 / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] += [["▁v", 0.0], ["▁d", 0.0]]
    content["added_tokens"] = content["added_tokens"][:3]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"lacks <AA2fold>; copy the model's added_tokens\.json, too"):
        load_model(t5)


@pytest.mark.parametrize(("kind", "space"), [("word", " "), ("unigram", " "), ("char", "")])
def test_a_trained_spiece_model_is_read(t5: Path, kind: str, space: str) -> None:
    rng = random.Random(1)
    lines = [space.join(rng.choices(T5_RESIDUES + T5_RARE, k=50)) for _ in range(500)]
    for path in t5.glob("*token*.json"):
        path.unlink()
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


def t5_json(pieces: list[str], unknown: int | None = 2, **changes: object) -> dict[str, object]:
    vocabulary = [[piece, -2.0] for piece in [*T5_SPECIAL, *pieces]]
    model = {"type": "Unigram", "unk_id": unknown, "vocab": vocabulary}
    return {"added_tokens": [], "model": model} | changes


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (t5_json([*T5_RESIDUES, "AL"]), "expected a vocabulary of single residues, but it has 'AL'"),
        (t5_json([*(f"▁{residue}" for residue in T5_RESIDUES), "▁LLL"]), "single residues, but it has '▁LLL'"),
        (t5_json([*T5_RESIDUES[:-1]]), "lacks C;"),
        (t5_json([]), "lacks A, C, D"),
        (t5_json([*T5_RESIDUES], normalizer="?"), "transformers cannot read this"),
        ({"model": {"vocab": {"<unk>": 0, "A": 1}, "unk_token": "<unk>", "merges": [["A", "A"]]}}, "cannot read this"),
    ],
)
def test_other_tokenizers_are_refused(t5: Path, changes: dict[str, object], what: str) -> None:
    path = t5 / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    found = refusal(t5)
    assert "tokenizer.json: " in found
    assert what in found
