"""Masked language models: logits, pseudo-log-likelihoods and filled masks against the Hugging Face classes."""

import csv
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.decoding.likelihood import score_masked
from embedome.decoding.masked_lm import HEADS, MaskedLM, load_masked_lm
from helpers.small_run import random_sequence, rough_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    EsmcForMaskedLM,
    EsmForMaskedLM,
    MegatronBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaForMaskedLM,
)

SMALL = {"layers": 2, "hidden": 32, "heads": 4, "feed_forward": 64}


def esm1nv_class(folder: Path) -> PreTrainedModel:
    """With the exact GELU in its head, which config.json cannot say."""
    model = MegatronBertForMaskedLM.from_pretrained(folder).eval()
    model.cls.predictions.transform.transform_act_fn = torch.nn.GELU()
    return model


def esm2_class(folder: Path) -> PreTrainedModel:
    return EsmForMaskedLM.from_pretrained(folder).eval()


KINDS: dict[str, Callable[[Path], PreTrainedModel]] = {
    "esm1nv": esm1nv_class,
    "esm2-8m": esm2_class,
    "esm1b": esm2_class,
    "protbert": lambda folder: BertForMaskedLM.from_pretrained(folder).eval(),
    "esmc-300m": lambda folder: EsmcForMaskedLM.from_pretrained(folder).eval(),
    "sapiens-vh": lambda folder: RobertaForMaskedLM.from_pretrained(folder).eval(),
}

# Those whose matrix of outputs is the embedding of the tokens.
TIED = [name for name in KINDS if not name.startswith("esmc")]


@dataclass(frozen=True)
class Pair:
    folder: Path
    ours: MaskedLM
    theirs: PreTrainedModel

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(self.folder)

    def ids(self, text: str) -> torch.Tensor:
        # BERT's residues are words.
        text = " ".join(text) if isinstance(self.theirs, BertForMaskedLM) else text
        return self.tokenizer()(text, return_tensors="pt").input_ids

    @torch.inference_mode()
    def log_probabilities(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.theirs(tokens).logits[0].double().log_softmax(-1)


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = rough_model(tmp_path_factory.mktemp("masked") / "model", 3, request.param, SMALL)
    return Pair(folder, load_masked_lm(folder), KINDS[request.param](folder))


@pytest.mark.parametrize("length", [1, 2, 17, 90])
def test_logits_equal_hugging_face(pair: Pair, length: int) -> None:
    tokens = pair.ids(random_sequence(random.Random(length), length))
    with torch.inference_mode():
        expected = pair.theirs(tokens).logits
    assert (pair.ours.logits(tokens) - expected).abs().max() < 2e-5 * expected.abs().max()


def test_the_head_of_a_bert_has_the_activation_of_its_layers(tmp_path: Path) -> None:
    folder = rough_model(tmp_path, 3, "protbert", SMALL)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu_new"}))
    tokens = torch.tensor([[2, 5, 6, 7, 8, 3]])
    with torch.inference_mode():
        expected = BertForMaskedLM.from_pretrained(folder).eval()(tokens).logits
    assert (load_masked_lm(folder).logits(tokens) - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("budget", [1, 100, 4096])
@pytest.mark.slow
def test_each_residue_is_scored_with_itself_masked(pair: Pair, budget: int) -> None:
    sequence = random_sequence(random.Random(7), 25)
    tokens = pair.ids(sequence)
    mask = pair.tokenizer().mask_token_id
    expected = []
    for position in range(1, 26):
        masked = tokens.clone()
        masked[0, position] = mask
        expected.append(pair.log_probabilities(masked)[position, tokens[0, position]].item())
    pair.ours.batches.token_budget = budget
    found = pair.ours.log_likelihoods(sequence.encode())
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_masks_are_filled_as_hugging_face_fills_them(pair: Pair) -> None:
    found = pair.ours.fill("MK<mask>AYIA<mask><mask>", top=3)
    tokenizer = pair.tokenizer()
    ids, mask = tokenizer.convert_tokens_to_ids, tokenizer.mask_token_id
    start, m, end = pair.ids("M")[0].tolist()
    tokens = torch.tensor([[start, m, ids("K"), mask, *map(ids, "AYIA"), mask, mask, end]])
    probabilities = pair.log_probabilities(tokens).exp()
    letters = [letter for letter in "LAGVSERTIDPKQNFYMHWCXBUZO" if letter in tokenizer.get_vocab()]
    if isinstance(pair.theirs, BertForMaskedLM):
        letters = letters[:-4]  # B, U, Z and O are X to it
    assert [filled.position for filled in found] == [3, 8, 9]
    for filled in found:
        row = {letter: probabilities[filled.position, ids(letter)].item() for letter in letters}
        best = sorted(letters, key=row.get, reverse=True)[:3]
        assert filled.residues == best
        np.testing.assert_allclose(filled.probabilities, [row[letter] for letter in best], rtol=1e-4)


def test_a_table_in_input_order_and_a_list_of_what_is_left_out(pair: Pair, tmp_path: Path) -> None:
    rng = random.Random(1)
    records = {"c": random_sequence(rng, 12), "a": random_sequence(rng, 30), "b": random_sequence(rng, 12)}
    text = "".join(f">{name} words\n{sequence}\n" for name, sequence in records.items())
    (tmp_path / "in.fasta").write_text(text + f">long\n{'A' * 50_000}\n>odd\nMK1\n")
    account = score_masked([tmp_path / "in.fasta"], pair.ours, tmp_path / "out.tsv")
    assert account == {"read": 5, "scored": 3, "too-long": 1, "invalid-residue": 1}
    with open(tmp_path / "out.tsv") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert [row["id"] for row in rows] == ["c", "a", "b"]
    for row in rows:
        exact = pair.ours.log_likelihoods(records[row["id"]].encode())
        assert int(row["tokens"]) == len(exact)
        assert float(row["log_likelihood"]) == pytest.approx(exact.sum(), rel=1e-5)
        assert float(row["mean_log_likelihood"]) == pytest.approx(exact.mean(), rel=1e-5)
        assert float(row["perplexity"]) == pytest.approx(np.exp(-exact.mean()), rel=1e-5)
    dropped = (tmp_path / "out.tsv.dropped.tsv").read_text().splitlines()
    assert dropped[1:] == ["skipped\tlong\ttoo-long\t\t50000", "rejected\todd\tinvalid-residue\t'1' at 3\t3"]


def test_a_batch_that_does_not_fit_is_halved_and_a_residue_that_does_not_is_told(pair: Pair, monkeypatch) -> None:
    sequence = random_sequence(random.Random(7), 25).encode()
    exact = pair.ours.log_likelihoods(sequence)
    encoder, sizes = pair.ours.encoder.forward, []

    def limited(tokens: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tokens))
        if len(tokens) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encoder(tokens)

    monkeypatch.setattr(pair.ours.encoder, "forward", limited)
    most, pair.ours.batches.token_budget = 4, 4096
    np.testing.assert_allclose(pair.ours.log_likelihoods(sequence), exact, atol=2e-5)
    assert sizes[0] == 25
    assert max(sizes[4:]) <= 4
    most = 0
    assert pair.ours.log_likelihoods(sequence) is None


def test_what_is_filled_is_cleaned_as_a_file_is(pair: Pair) -> None:
    assert pair.ours.fill(" mk \n<mask> ayia") == pair.ours.fill("MK<mask>AYIA") == pair.ours.fill("MK[MASK]AYIA")
    for sequence in ("MK*<mask>", "M-1<mask>", "MÉK<mask>"):
        with pytest.raises(UserError, match="invalid-residue"):
            pair.ours.fill(sequence)


@pytest.mark.parametrize("pair", TIED, indirect=True)
def test_a_matrix_of_the_head_s_own_is_refused(pair: Pair, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pair.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    words = next(tensor for name, tensor in weights.items() if name.endswith("word_embeddings.weight"))
    name = f"{HEADS[config['model_type']].output}.weight"
    save_file({**weights, name: words.clone()}, folder / "model.safetensors", {"format": "pt"})
    assert load_masked_lm(folder)
    save_file({**weights, name: words + 1}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f"{name} is a matrix of its own"):
        load_masked_lm(folder)


@pytest.mark.parametrize("pair", TIED, indirect=True)
def test_a_matrix_of_the_head_s_own_must_be_there_if_config_json_says_so(pair: Pair, tmp_path: Path) -> None:
    folder = shutil.copytree(pair.folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(
        UserError, match=r"decoder\.weight is missing, but tie_word_embeddings is false in config\.json"
    ):
        load_masked_lm(folder)


def test_what_cannot_be_done_is_refused(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to fill in 'MKT'; expected <mask>"):
        pair.ours.fill("MKT")
    with pytest.raises(UserError, match=r"a sequence has \d+ residues; the model's positions hold"):
        pair.ours.fill("<mask>" + "A" * 50_000)
    rough_model(tmp_path / "t5", 1, "prott5nv", SMALL)
    with pytest.raises(UserError, match="blenderbot is no masked language model"):
        load_masked_lm(tmp_path / "t5")


def test_a_checkpoint_without_the_head_is_refused(pair: Pair, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in pair.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "dense.weight" in name and ("cls" in name or "lm_head" in name))
    weights[name][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"dense\.weight holds NaN or infinity"):
        load_masked_lm(folder)
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f"{name} is missing"):
        load_masked_lm(folder)
