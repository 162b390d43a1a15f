"""Features on disk: those of the engine, the same after a kill, and read without holding them all."""

import json

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.engine.windows import LongPolicy
from embedome.evaluation import features as module
from embedome.evaluation.features import ModelFeatures, make_features
from embedome.models.create import make_untrained
from helpers.made_tasks import proteins
from transformers import AutoTokenizer, MegatronBertModel

SEQUENCES = [sequence.encode() for _, _, sequence in proteins({"train": 40})]
SIZES = {"layers": 2, "hidden": 16, "heads": 2, "feed_forward": 24, "positions": 24}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    make_untrained(folder, "small", "esm1nv", SIZES, 0)
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_RESIDUES", 100)


def maker(model, level="residue", layer=2, policy="truncate"):
    return ModelFeatures(str(model), level, layer, "float32", "cpu", LongPolicy(policy), {"layer": layer}, 16)


def by_class(model, layer):
    """Hidden states of the Hugging Face class, of the residues that fit."""
    reference = MegatronBertModel.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    with torch.inference_mode():
        for sequence in SEQUENCES:
            tokens = tokenizer(" ".join(sequence.decode()[:22]), return_tensors="pt")["input_ids"]
            if tokens.shape[1] != min(22, len(sequence)) + 2:
                tokens = tokenizer(sequence.decode()[:22], return_tensors="pt")["input_ids"]
            states = reference(tokens, output_hidden_states=True)
            found = states.last_hidden_state if layer == 2 else states.hidden_states[layer]
            yield found[0, 1:-1].numpy()


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_features_are_those_of_the_hugging_face_class(model, tmp_path, layer):
    found = make_features(maker(model, layer=layer), SEQUENCES, tmp_path)
    pooled = make_features(maker(model, "protein", layer), SEQUENCES, tmp_path)
    for index, expected in enumerate(by_class(model, layer)):
        assert found.counts[index] == len(expected)
        assert np.abs(found.of_protein(index) - expected).max() < 3e-3
        assert np.abs(pooled.of_protein(index) - expected.mean(0)).max() < 3e-3
    assert found.matrix.shape == (sum(min(22, len(each)) for each in SEQUENCES), 16)


def test_proteins_that_are_skipped_have_no_features(model, tmp_path):
    for level in ("residue", "protein"):
        found = make_features(maker(model, level, policy="skip"), SEQUENCES, tmp_path)
        assert found.counts.tolist() == [len(each) if len(each) <= 22 else 0 for each in SEQUENCES]
        assert not np.isnan(found.matrix).any()


class Counted:
    """A maker that counts, and fails after some blocks."""

    def __init__(self, inner, fails_after=None):
        self.inner, self.blocks, self.fails_after = inner, 0, fails_after
        self.level, self.dimension, self.identity = inner.level, inner.dimension, inner.identity

    def make(self, sequences):
        if self.blocks == self.fails_after:
            raise KeyboardInterrupt
        self.blocks += 1
        return self.inner.make(sequences)


def contents(root):
    [folder] = root.iterdir()
    return {name: (folder / name).read_bytes() for name in ("vectors.f16", "counts.i32", "about.json", "state.json")}


def test_a_killed_run_goes_on_after_the_last_block_to_the_same_bytes(model, tmp_path):
    whole = Counted(maker(model))
    make_features(whole, SEQUENCES, tmp_path / "whole")
    killed = Counted(maker(model), fails_after=3)
    with pytest.raises(KeyboardInterrupt):
        make_features(killed, SEQUENCES, tmp_path / "killed")
    [folder] = (tmp_path / "killed").iterdir()
    # Half a block, as a kill leaves it.
    with (folder / "vectors.f16").open("ab") as handle:
        handle.write(b"half a block")
    with (folder / "counts.i32").open("ab") as handle:
        handle.write(b"123")
    rest = Counted(maker(model))
    make_features(rest, SEQUENCES, tmp_path / "killed")
    assert killed.blocks == 3
    assert rest.blocks == whole.blocks - 3
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    again = Counted(maker(model))
    make_features(again, SEQUENCES, tmp_path / "killed")
    assert again.blocks == 0


def test_other_sequences_layers_and_levels_have_features_of_their_own(model, tmp_path):
    make_features(maker(model), SEQUENCES, tmp_path)
    make_features(maker(model), SEQUENCES[1:], tmp_path)
    make_features(maker(model, layer=1), SEQUENCES, tmp_path)
    make_features(maker(model, "protein"), SEQUENCES, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert all(json.loads((folder / "about.json").read_text())["dimension"] == 16 for folder in tmp_path.iterdir())


def test_a_task_without_any_feature_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="no protein has features"):
        make_features(maker(model, policy="skip"), [b"M" * 30], tmp_path)
