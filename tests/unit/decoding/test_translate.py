"""Translation and the likelihood of targets, against Hugging Face's classes fed by hand, one sequence at a time."""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.decoding.length_batches import Batches
from embedome.decoding.likelihood import score_targets
from embedome.decoding.seq2seq import Decoding, Seq2Seq, load_seq2seq
from embedome.decoding.translate import translate_fasta
from embedome.models.directory import load_model
from embedome.models.encoders.prenorm import BlenderbotEncoder
from helpers.small_run import random_sequence, rough_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BlenderbotForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5ForConditionalGeneration,
)

SMALL = {"layers": 2, "hidden": 32, "heads": 4, "feed_forward": 64}
PROTT5NV = {**SMALL, "positions": 64}


def untied(folder: Path) -> PreTrainedModel:
    """Ankh with the output matrix of its checkpoint, which transformers 5 ties to the embedding."""
    model = T5ForConditionalGeneration.from_pretrained(folder)
    model.lm_head.weight = torch.nn.Parameter(load_file(folder / "model.safetensors")["lm_head.weight"])
    return model


@dataclass(frozen=True)
class Kind:
    name: str
    sizes: dict[str, int]
    load: Callable[[Path], PreTrainedModel]
    source: Callable[[str], list[str]]
    """Tokens of a source."""
    target: Callable[[str], list[str]]
    start: int


KINDS = {
    "prott5nv": Kind("prott5nv", PROTT5NV, BlenderbotForConditionalGeneration.from_pretrained, list, list, 1),
    "ankh": Kind("ankh2-ext2", SMALL, untied, lambda s: [*s, "</s>"], list, 0),
    "prott5": Kind(
        "prott5-xl",
        SMALL,
        T5ForConditionalGeneration.from_pretrained,
        lambda s: [*(f"▁{residue}" for residue in s), "</s>"],
        lambda s: [f"▁{residue}" for residue in s],
        0,
    ),
    "prostt5": Kind(
        "prostt5",
        SMALL,
        T5ForConditionalGeneration.from_pretrained,
        lambda s: ["<AA2fold>", *(f"▁{residue}" for residue in s), "</s>"],
        lambda s: [f"▁{state}" for state in s.lower()],
        0,
    ),
}


@cache
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


def talkative_model(folder: Path, kind: Kind) -> Path:
    """A model with random weights that generates residues: all other tokens, but the end, are near zero."""
    rough_model(folder, 5, kind.name, kind.sizes)
    names = tokenizer(folder).convert_ids_to_tokens(
        range(json.loads((folder / "config.json").read_text())["vocab_size"])
    )
    other = [index for index, name in enumerate(names) if name is None or len(name.removeprefix("▁")) != 1]
    other.remove(names.index("</s>"))
    weights = load_file(folder / "model.safetensors")
    for tensor in weights.values():
        if tensor.shape[0] == len(names):
            tensor[other] *= 0.01
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@dataclass(frozen=True)
class Pair:
    folder: Path
    kind: Kind
    ours: Seq2Seq
    theirs: PreTrainedModel

    def ids(self, tokens: list[str]) -> list[int]:
        return tokenizer(self.folder).convert_tokens_to_ids(tokens)

    @torch.inference_mode()
    def next_token(self, source: str, so_far: list[int]) -> torch.Tensor:
        """Return log-probabilities of the token after `so_far`, the start left out, with nothing cached."""
        tokens = torch.tensor([self.ids(self.kind.source(source))])
        decoder = torch.tensor([[self.kind.start, *so_far]])
        return self.theirs(input_ids=tokens, decoder_input_ids=decoder).logits[0, -1].double().log_softmax(-1)

    @property
    def end(self) -> int:
        return self.ids(["</s>"])[0]

    def greedy(self, source: str, most: int) -> str:
        """Token by token, by a loop."""
        found: list[int] = []
        while len(found) < most:
            token = int(self.next_token(source, found).argmax())
            if token == self.end:
                break
            found.append(token)
        return self.text(found)

    def beam(self, source: str, most: int, beams: int) -> float:
        """Log-probability by token of the best of a beam search's results, by a loop without early stopping."""
        alive, done = [(0.0, [])], []
        for _ in range(most):
            grown = [
                (score + value, [*tokens, token])
                for score, tokens in alive
                for token, value in enumerate(self.next_token(source, tokens).tolist())
            ]
            grown.sort(reverse=True)
            done += [(score / len(tokens), tokens) for score, tokens in grown[: 2 * beams] if tokens[-1] == self.end]
            alive = [(score, tokens) for score, tokens in grown if tokens[-1] != self.end][:beams]
        return max([score for score, _ in done] + [score / len(tokens) for score, tokens in alive])

    def text(self, tokens: list[int]) -> str:
        names = tokenizer(self.folder).convert_ids_to_tokens(tokens)
        letters = [name.removeprefix("▁") for name in names]
        return "".join(letter for letter in letters if len(letter) == 1 and letter.isalpha())


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    kind = KINDS[request.param]
    folder = talkative_model(tmp_path_factory.mktemp("seq2seq") / "model", kind)
    return Pair(folder, kind, load_seq2seq(folder), kind.load(folder).float().eval())


def write_fasta(path: Path, records: dict[str, str]) -> Path:
    path.write_text("".join(f">{name} of {name}\n{sequence}\n" for name, sequence in records.items()))
    return path


@pytest.mark.slow
def test_greedy_decoding_is_the_loop_over_tokens(pair: Pair) -> None:
    rng = random.Random(2)
    sources = [random_sequence(rng, 20) for _ in range(5)]
    found = pair.ours.translate([source.encode() for source in sources], Decoding(max_length=12))
    assert found == [pair.greedy(source, 12) for source in sources]
    assert any(found)


@pytest.mark.slow
def test_beam_search_finds_what_the_loop_over_beams_finds(pair: Pair) -> None:
    rng = random.Random(3)
    sources = [random_sequence(rng, 9) for _ in range(3)]
    generated: list[list[int]] = []

    def generate(*arguments: object, **options: object) -> torch.Tensor:
        generated.extend((found := original(*arguments, **options))[:, 1:].tolist())
        return found

    original = pair.ours.model.generate
    pair.ours.model.generate = generate
    try:
        pair.ours.translate([source.encode() for source in sources], Decoding(beams=3, max_length=4))
    finally:
        del pair.ours.model.generate
    for source, tokens in zip(sources, generated, strict=True):
        tokens = tokens[: tokens.index(pair.end) + 1] if pair.end in tokens else tokens
        score = sum(float(pair.next_token(source, tokens[:i])[token]) for i, token in enumerate(tokens)) / len(tokens)
        assert score >= pair.beam(source, 4, 3) - 1e-4


def test_targets_are_scored_token_by_token(pair: Pair) -> None:
    rng = random.Random(4)
    sources, targets = ([random_sequence(rng, length) for _ in range(3)] for length in (11, 7))
    found = pair.ours.log_likelihoods([s.encode() for s in sources], [t.encode() for t in targets])
    assert found.shape == (3, 8)
    for source, target, scores in zip(sources, targets, found, strict=True):
        tokens = [*pair.ids(pair.kind.target(target)), pair.end]
        expected = [float(pair.next_token(source, tokens[:i])[token]) for i, token in enumerate(tokens)]
        np.testing.assert_allclose(scores, expected, atol=5e-5)


@pytest.mark.slow
def test_a_file_is_translated_in_input_order_whatever_the_batches(pair: Pair, tmp_path: Path, monkeypatch) -> None:
    rng = random.Random(6)
    lengths = [5, 9, 5, 12, 9, 5]
    records = {f"p{9 - i}": random_sequence(rng, length) for i, length in enumerate(lengths)}
    fasta = write_fasta(tmp_path / "in.fasta", records)
    expected = {name: pair.greedy(sequence, 8) for name, sequence in records.items()}
    sound = "".join(f">{name} of {name}\n{text}\n" for name, text in expected.items() if text)
    for block, budget in ((2000, 4096), (2, 1)):
        monkeypatch.setattr("embedome.decoding.length_batches.BLOCK_RECORDS", block)
        monkeypatch.setattr("embedome.decoding.translate.TOKEN_BUDGET", {"cpu": budget})
        account = translate_fasta([fasta], pair.ours, tmp_path / "out.fasta", Decoding(max_length=8))
        assert (tmp_path / "out.fasta").read_text() == sound
        assert account["read"] == 6 == account["translated"] + account.get("empty-translation", 0)
    assert len(set(expected.values())) > 1


def test_what_is_left_out_is_listed_and_counted(tmp_path: Path) -> None:
    model = load_seq2seq(rough_model(tmp_path / "model", 5, "prott5nv", PROTT5NV))
    records = {"fits": "A" * 64, "long": "A" * 65, "odd": "MK1", "none": ""}
    fasta = write_fasta(tmp_path / "in.fasta", records)
    account = score_targets(fasta, fasta, model, tmp_path / "out.tsv")
    assert account == {"read": 4, "too-long": 2, "invalid-residue": 1, "empty-sequence": 1}
    dropped = [line.split("\t")[:3] for line in (tmp_path / "out.tsv.dropped.tsv").read_text().splitlines()[1:]]
    assert ["skipped", "fits", "too-long"] in dropped  # as a target: a token starts it
    account = translate_fasta([fasta], model, tmp_path / "out.fasta", Decoding(max_length=3))
    assert account["read"] == 4
    assert account["too-long"] == account["invalid-residue"] == account["empty-sequence"] == 1


def test_scores_are_a_table_in_input_order(pair: Pair, tmp_path: Path) -> None:
    rng = random.Random(7)
    sources = {f"q{9 - i}": random_sequence(rng, length) for i, length in enumerate([5, 9, 5, 9])}
    targets = {name: random_sequence(rng, 4 + len(sequence) % 2) for name, sequence in sources.items()}
    files = write_fasta(tmp_path / "in.fasta", sources), write_fasta(tmp_path / "targets.fasta", targets)
    assert score_targets(*files, pair.ours, tmp_path / "out.tsv") == {"read": 4, "scored": 4}
    with open(tmp_path / "out.tsv") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert [row["id"] for row in rows] == list(sources)
    for row in rows:
        name = row["id"]
        exact = pair.ours.log_likelihoods([sources[name].encode()], [targets[name].encode()])[0]
        assert int(row["tokens"]) == len(targets[name]) + 1
        assert float(row["log_likelihood"]) == pytest.approx(exact.sum(), rel=1e-4)
        assert float(row["perplexity"]) == pytest.approx(np.exp(-exact.mean()), rel=1e-4)


def test_targets_must_be_of_the_same_ids(pair: Pair, tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "MK", "b": "MK"})
    for targets, message in (
        ({"b": "MK", "a": "MK"}, "record 1 is b; expected a as in"),
        ({"a": "MK"}, "record 2 is missing; expected b as in"),
        ({"a": "MK", "b": "MK", "c": "MK"}, "record 3 is c; expected the end as in"),
    ):
        with pytest.raises(UserError, match=message):
            score_targets(fasta, write_fasta(tmp_path / "t.fasta", targets), pair.ours, tmp_path / "out.tsv")
        assert not (tmp_path / "out.tsv").exists()


def test_models_that_cannot_translate_are_refused(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="megatron-bert has no decoder"):
        load_seq2seq(rough_model(tmp_path / "bert"))
    folder = tmp_path / "model"
    folder.mkdir()
    for path in pair.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    half = {name: tensor for name, tensor in weights.items() if "decoder." not in name}
    save_file(half, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"decoder\S* is missing; the checkpoint has no decoder"):
        load_seq2seq(folder)
    name = next(name for name in weights if "decoder" in name and "weight" in name)
    weights[name].view(-1)[0] = float("inf")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f"{name} holds NaN or infinity"):
        load_seq2seq(folder)


def test_more_tokens_than_positions_are_refused(tmp_path: Path) -> None:
    model = load_seq2seq(rough_model(tmp_path / "model", 5, "prott5nv", PROTT5NV))
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "MKTAYIAKQR"})
    with pytest.raises(UserError, match="--max-length is 65; the model's positions hold 64 tokens"):
        translate_fasta([fasta], model, tmp_path / "out.fasta", Decoding(max_length=65))
    for beams in (1, 2):
        assert translate_fasta([fasta], model, tmp_path / "out.fasta", Decoding(beams))["read"] == 1


def test_float16_is_refused_for_t5_only(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="float16, which T5 models overflow"):
        load_seq2seq(rough_model(tmp_path / "t5", 1, "ankh-base", SMALL), dtype="float16")
    load_seq2seq(rough_model(tmp_path / "nv", 1, "prott5nv", PROTT5NV), dtype="float16")


def test_batches_keep_the_order_and_survive_a_full_device() -> None:
    items = ["aaa", "b", "ccc", "d", "ee", "fff", "gggg"]
    sizes = []

    def work(batch: list[str]) -> list[str]:
        assert len({len(item) for item in batch}) == 1
        sizes.append(len(batch))
        if len(batch) > 2 or batch == ["gggg"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [item.upper() for item in batch]

    batches = Batches(4096)
    assert batches.run(items, lambda item: (len(item),), work) == ["AAA", "B", "CCC", "D", "EE", "FFF", None]
    assert batches.token_budget < 10
    with pytest.raises(RuntimeError, match="shapes"):
        batches.run(["a"], lambda item: (1,), lambda batch: (_ for _ in ()).throw(RuntimeError("shapes")))


# The encoder half of ProtT5nv


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_prott5nvs_hidden_states_equal_hugging_face_at_every_length(tmp_path: Path, batch: int) -> None:
    folder = rough_model(tmp_path / "model", 8, "prott5nv", PROTT5NV)
    model = load_model(folder)
    assert isinstance(model.encoder, BlenderbotEncoder)
    assert model.max_residues == 64
    reference = BlenderbotForConditionalGeneration.from_pretrained(folder).model.encoder.eval()
    for length in [1, 2, 3, *range(4 + batch, 64, 7), 64]:
        tokens = torch.randint(5, 30, (batch, length), generator=torch.Generator().manual_seed(length))
        with torch.inference_mode():
            for mine, row in zip(model.encoder(tokens), tokens, strict=True):
                exact = reference(row[None]).last_hidden_state[0]
                assert (mine - exact).abs().max() < 2e-5 * exact.abs().max()


def test_scaled_embeddings_are_refused(tmp_path: Path) -> None:
    folder = rough_model(tmp_path / "model", 8, "prott5nv", PROTT5NV)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "scale_embedding": True}))
    with pytest.raises(UserError, match="scale_embedding is true; expected false"):
        load_model(folder)
