"""The registry: figures as published, and directories of every architecture that Hugging Face opens."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from embedome.common.errors import UserError
from embedome.models.create import make_config, make_untrained
from embedome.models.directory import load_model
from embedome.models.encoders.prenorm import BlenderbotEncoder, PreLNEncoder
from embedome.models.encoders.t5 import T5Encoder
from embedome.models.encoders.t5_decoder import T5Decoder
from embedome.models.registry import REGISTRY, find_entry
from helpers.paths import ROOT
from transformers import AutoModel, AutoTokenizer

SMALL = {"layers": 2, "hidden": 32, "heads": 4, "feed_forward": 48}
CLASSES = {
    "megatron-bert": "MegatronBertForMaskedLM",
    "bert": "BertForMaskedLM",
    "esmc": "EsmcForMaskedLM",
    "roberta": "RobertaForMaskedLM",
    "blenderbot": "BlenderbotForConditionalGeneration",
    "esm": "EsmForMaskedLM",
    "t5": "T5ForConditionalGeneration",
}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.slow
def test_parameters_are_those_of_the_hugging_face_class_at_full_size(name: str) -> None:
    entry = REGISTRY[name]
    config = make_config(name, {}, {})
    with torch.device("meta"):
        found = count(getattr(transformers, CLASSES[entry.model_type])(config))
    hidden = entry.sizes["hidden"]
    if entry.model_type == "megatron-bert":
        found -= 2 * hidden  # token types, which ESM-1nv has not
    elif entry.model_type == "blenderbot":
        found += 128 - entry.sizes["positions"] * hidden  # the head's bias is a buffer, positions are there twice
    elif entry.model_type == "t5" and entry.config.get("tie_word_embeddings") is False:
        found += entry.config["vocab_size"] * hidden  # the head, which transformers 5 ties
    assert found == entry.parameters
    if entry.model_type == "t5":
        with torch.device("meta"):
            assert count(transformers.T5EncoderModel(config)) == entry.encoder_parameters


def test_the_founding_models_have_the_published_sizes() -> None:
    assert find_entry("esm1nv").parameters == 43_612_544
    assert find_entry("esm1nv-1024").parameters == 44_005_760
    assert find_entry("prott5nv").parameters == 198_970_496
    assert find_entry("ankh2-ext2").parameters == 1_878_705_152
    assert find_entry("ankh2-ext2").encoder_parameters == 1_151_707_648


def test_our_own_encoders_have_as_many_parameters() -> None:
    with torch.device("meta"):
        ankh = make_config("ankh2-ext2", {}, {}).to_dict()
        assert count(T5Encoder(ankh)) == 1_151_707_648
        # A table of tokens for either half, where the model has one and an output matrix.
        assert count(T5Decoder(ankh)) == 1_878_705_152
        head = 128 + 768 * 768 + 3 * 768
        esm1nv = PreLNEncoder(make_config("esm1nv", {}, {}).to_dict())
        # ESM-1nv has no token types; the class has two, which go into the positions once they are filled.
        assert count(esm1nv) - 2 * 768 + head == 43_612_544
        assert count(BlenderbotEncoder(make_config("prott5nv", {}, {}).to_dict())) == 85_547_520


def test_the_document_on_choosing_has_the_figures_of_the_registry() -> None:
    text = (ROOT / "docs" / "choosing-a-model.md").read_text()
    rows = re.findall(r"^\| ([\w -]+) \| `(.+?)` \| (.+?) \| (.+?) \| (.+?) \| [\d.]+ \| (.+?) \|$", text, re.MULTILINE)
    assert len(rows) == text.count("| `")
    assert {use for use, *_ in rows} >= {"fast", "best", "variants", "structure-aware", "antibodies", "no GPU"}
    for _, name, dimension, gigabytes, residues, licence in rows:
        entry = find_entry(name)
        assert int(dimension) == entry.sizes["hidden"]
        assert float(gigabytes) == pytest.approx(4e-9 * (entry.encoder_parameters or entry.parameters), rel=0.05)
        assert residues == ("any" if entry.residues is None else f"{entry.residues:,}")
        assert licence == entry.licence


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.slow
def test_a_small_directory_opens_everywhere(tmp_path: Path, name: str) -> None:
    entry = REGISTRY[name]
    make_untrained(tmp_path / "model", "small", name, SMALL, 1)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model_type"] == entry.model_type
    assert config["embedome"] == {"name": "small", "trained": False, "seed": 1}
    assert config.get("tie_word_embeddings", True) == entry.config.get("tie_word_embeddings", True)
    model, info = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not [name for name in info["missing_keys"] if "pooler" not in name]
    ours = load_model(tmp_path / "model")
    assert ours.max_residues == entry.residues
    assert ours.tokenizer.n_special == (entry.first is not None) + (entry.last is not None)
    tokens = torch.from_numpy(ours.tokenizer.tokens(np.frombuffer(b"MKTAYIAKQR", np.uint8)[None]))
    encoder = model.encoder if entry.encoder_parameters else model
    with torch.inference_mode():
        expected = encoder.eval()(tokens).last_hidden_state
        assert (ours.encoder(tokens) - expected).abs().max() < 2e-5 * expected.abs().max()


def test_seeds_decide_about_the_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_untrained(tmp_path / name, "x", "prott5nv", SMALL, seed)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_fewer_layers_hold_for_the_decoder_unless_it_is_named() -> None:
    assert make_config("ankh2-ext2", {"layers": 3}, {}).num_decoder_layers == 3
    assert make_config("ankh2-ext2", {"layers": 30}, {}).num_decoder_layers == 24
    config = make_config("ankh2-ext2", {"layers": 3, "decoder_layers": 1, "hidden": 64, "heads": 4}, {})
    assert (config.num_layers, config.num_decoder_layers, config.d_kv) == (3, 1, 16)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("esm3", {}, "no model is called 'esm3'; expected one of esm1nv"),
        ("esm2-8m", {"positions": 5}, "esm2-8m has no positions to choose; expected one of layers, hidden"),
        ("esm1nv", {"decoder_layers": 2}, "esm1nv has no decoder layers"),
        ("prott5-xl", {"hidden": 30}, "the model dimension is 30; expected a multiple of the heads, 32"),
        ("esm1nv", {"layers": 0}, "layers is 0; expected 1 or more"),
    ],
)
def test_impossible_sizes_are_refused(tmp_path: Path, name: str, sizes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_untrained(tmp_path / "model", "x", name, sizes, 0)
    assert not (tmp_path / "model").exists()


def test_a_tokenizer_of_the_saved_directory_is_the_models() -> None:
    assert {entry.vocabulary for entry in REGISTRY.values()} == {
        "esm1nv", "prott5nv", "ankh", "ankh3", "esm2", "prott5", "prostt5", "esmc", "saprot", "protbert", "antiberty",
        "sapiens",
    }  # fmt: skip


def test_the_released_head_of_ankh_is_not_tied(tmp_path: Path) -> None:
    make_untrained(tmp_path / "model", "x", "ankh2-ext2", SMALL, 1)
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert not torch.equal(weights["lm_head.weight"], weights["shared.weight"])
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("MK").input_ids == [19, 14, 1]
