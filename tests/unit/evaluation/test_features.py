"""Features on disk: those of the engine, the same after a kill, and read without holding them all."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.engine.windows import LongPolicy
from embedome.evaluation import features as module
from embedome.evaluation.features import ModelFeatures, make_features
from embedome.models.create import make_untrained
from helpers import evaluation_memory
from helpers.evaluation_memory import DIMENSION
from helpers.made_tasks import proteins
from helpers.paths import SCRIPTS
from safetensors.torch import load_file, save_file
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


def maker(model, level="residue", layers=(2,), policy="truncate"):
    return ModelFeatures(str(model), level, layers, "float32", "cpu", LongPolicy(policy), {"model": str(model)}, 16)


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


@pytest.mark.parametrize("layers", [(0,), (1,), (2,), (2, 0, 1)])
def test_features_are_those_of_the_hugging_face_class(model, tmp_path, layers):
    by_residue = make_features(maker(model, layers=layers), SEQUENCES, tmp_path)
    by_protein = make_features(maker(model, "protein", layers), SEQUENCES, tmp_path)
    for layer, found, pooled in zip(layers, by_residue, by_protein, strict=True):
        for index, expected in enumerate(by_class(model, layer)):
            assert found.counts[index] == len(expected)
            assert np.abs(found.of_protein(index) - expected).max() < 3e-3
            assert np.abs(pooled.of_protein(index) - expected.mean(0)).max() < 3e-3
        assert found.matrix.shape == (sum(min(22, len(each)) for each in SEQUENCES), 16)


def test_proteins_that_are_skipped_have_no_features(model, tmp_path):
    for level in ("residue", "protein"):
        [found] = make_features(maker(model, level, policy="skip"), SEQUENCES, tmp_path)
        assert found.counts.tolist() == [len(each) if len(each) <= 22 else 0 for each in SEQUENCES]
        assert not np.isnan(found.matrix).any()


class Counted:
    """A maker that counts, and fails after some blocks."""

    def __init__(self, inner, fails_after=None):
        self.inner, self.blocks, self.fails_after, self.asked = inner, 0, fails_after, set()
        self.level, self.dimension, self.identities = inner.level, inner.dimension, inner.identities

    def make(self, sequences, places):
        if self.blocks == self.fails_after:
            raise KeyboardInterrupt
        self.blocks += 1
        self.asked |= {self.inner.layers[place] for place in places}
        return self.inner.make(sequences, places)


def contents(root):
    names = ("vectors.f16", "counts.i32", "about.json", "state.json")
    return {folder.name: {name: (folder / name).read_bytes() for name in names} for folder in root.iterdir()}


@pytest.mark.parametrize("level", ["residue", "protein"])
@pytest.mark.parametrize("policy", ["truncate", "window", "skip"])
def test_several_layers_take_one_pass_and_have_the_bytes_of_each_alone(model, tmp_path, level, policy):
    alone = [Counted(maker(model, level, (layer,), policy)) for layer in (0, 1, 2)]
    for each in alone:
        make_features(each, SEQUENCES, tmp_path / "alone")
    together = Counted(maker(model, level, (0, 1, 2), policy))
    make_features(together, SEQUENCES, tmp_path / "together")
    assert together.blocks == alone[0].blocks
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    assert len(contents(tmp_path / "together")) == 3


def test_layers_that_are_there_are_not_computed_again(model, tmp_path):
    make_features(maker(model, layers=(1,)), SEQUENCES, tmp_path / "some")
    rest = Counted(maker(model, layers=(0, 1, 2)))
    make_features(rest, SEQUENCES, tmp_path / "some")
    assert rest.asked == {0, 2}
    make_features(maker(model, layers=(0, 1, 2)), SEQUENCES, tmp_path / "whole")
    assert contents(tmp_path / "some") == contents(tmp_path / "whole")


def test_a_layer_that_is_ahead_is_joined_by_the_others_to_the_same_bytes(model, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make_features(Counted(maker(model, layers=(1,)), fails_after=3), SEQUENCES, tmp_path / "ahead")
    with pytest.raises(KeyboardInterrupt):
        make_features(Counted(maker(model, layers=(0, 1, 2)), fails_after=5), SEQUENCES, tmp_path / "ahead")
    make_features(maker(model, layers=(0, 1, 2)), SEQUENCES, tmp_path / "ahead")
    make_features(maker(model, layers=(0, 1, 2)), SEQUENCES, tmp_path / "whole")
    assert contents(tmp_path / "ahead") == contents(tmp_path / "whole")


def test_layers_beyond_the_memory_of_a_pass_are_computed_in_another(model, tmp_path, monkeypatch):
    make_features(maker(model, layers=(0, 1, 2)), SEQUENCES, tmp_path / "whole")
    whole = Counted(maker(model, layers=(0, 1, 2)))
    monkeypatch.setattr(module, "PASS_BYTES", 2 * 100 * 16 * 2)
    make_features(whole, SEQUENCES, tmp_path / "twice")
    assert whole.blocks == 2 * len(list(module.blocks(SEQUENCES)))
    assert contents(tmp_path / "twice") == contents(tmp_path / "whole")


@pytest.mark.parametrize("level", ["residue", "protein"])
def test_a_protein_that_overflows_in_one_layer_keeps_the_others(tmp_path, level):
    """As each layer alone: weights of the second layer that are too large for half floats."""
    folder = tmp_path / "large"
    make_untrained(folder, "large", "esm1nv", SIZES, 0)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "layer.0.output.dense.weight" in name)
    tensors[name] *= 1e12
    save_file(tensors, path, {"format": "pt"})
    for layers in ((0,), (1,), (2,)):
        with suppress(UserError):
            make_features(maker(folder, level, layers), SEQUENCES, tmp_path / "alone")
    with suppress(UserError):
        make_features(maker(folder, level, (0, 1, 2)), SEQUENCES, tmp_path / "together")
    found = contents(tmp_path / "together")
    assert found == contents(tmp_path / "alone")
    counts = {layer: sum(np.frombuffer(files["counts.i32"], np.int32)) for layer, files in by_layer(found).items()}
    assert counts[1] == 0 < counts[0] == counts[2]


def by_layer(found):
    """Contents of folders by their layer."""
    return {json.loads(files["about.json"])["layer"]: files for files in found.values()}


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
    make_features(maker(model, layers=(1,)), SEQUENCES, tmp_path)
    make_features(maker(model, "protein"), SEQUENCES, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert all(json.loads((folder / "about.json").read_text())["dimension"] == 16 for folder in tmp_path.iterdir())


def test_a_task_without_any_feature_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="no protein has features"):
        make_features(maker(model, policy="skip"), [b"M" * 30], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "convolutions"])
def test_memory_does_not_grow_with_the_task(head):
    """Four times as many proteins: features are on disk, of which a block is in memory."""
    few, many = (most_memory(proteins, head) for proteins in (600, 2400))
    more_features = (2400 - 600) * 1.4 * 106 * 2 * DIMENSION
    assert many - few < 0.3 * more_features


def most_memory(proteins, head):
    """Bytes of anonymous memory that an evaluation takes at most, in a process of its own."""
    program = Path(evaluation_memory.__file__)
    # oneDNN keeps what it has compiled for each shape, as many as 1,024: memory that does not grow beyond that.
    environment = {**os.environ, "PYTHONPATH": f"{SCRIPTS}:{program.parents[1]}", "OMP_NUM_THREADS": "1"}
    environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "0"
    command = [sys.executable, str(program), str(proteins), head]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
