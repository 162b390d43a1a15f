"""Features without a model, and a model with random weights of the same shape."""

import numpy as np
import pytest
from embedome.engine.windows import LongPolicy
from embedome.evaluation.baselines import COLUMNS, random_model, sequence_features
from embedome.models.create import make_untrained
from embedome.models.directory import load_model, model_identity
from embedome.models.tokenizer import STANDARD
from helpers.saved_models import KINDS, make

SEQUENCES = [b"MKVX", b"WW", b"MKVAAAAA"]


def features(method, level, sequences=SEQUENCES, policy="truncate", longest=5):
    [block] = sequence_features(method, level, LongPolicy(policy), longest, sequences).make(sequences, [0])
    return block


def test_one_hot_has_a_column_for_each_residue_and_one_for_all_others():
    found, used = features("one-hot", "residue")
    assert used.tolist() == [4, 2, 5]
    assert found.shape == (11, COLUMNS)
    letters = "".join((STANDARD + "X")[column] for column in found.argmax(1))
    assert letters == "MKVXWWMKVAA"
    assert (found.sum(1) == 1).all()


def test_proteins_of_several_lengths_have_their_composition():
    for method in ("one-hot", "composition"):
        found, used = features(method, "protein")
        assert used.tolist() == [4, 2, 5]
        assert found[1].argmax() == STANDARD.index("W")
        assert found[2, STANDARD.index("A")] == np.float16(0.4)
        assert np.allclose(found.sum(1), 1, atol=2e-3)


def test_variants_of_one_length_have_their_varying_positions():
    sequences = [b"MKVA", b"MRVA", b"MKVW"]
    found, _ = features("one-hot", "protein", sequences)
    assert found.shape == (3, 2 * COLUMNS)
    assert [(STANDARD[row[:COLUMNS].argmax()] + STANDARD[row[COLUMNS:].argmax()]) for row in found] == [
        "KA",
        "RA",
        "KW",
    ]
    assert features("composition", "protein", sequences)[0].shape == (3, COLUMNS)


def test_long_proteins_are_skipped_or_whole_where_they_are_for_the_model():
    assert features("one-hot", "residue", policy="skip")[1].tolist() == [4, 2, 0]
    assert features("one-hot", "residue", policy="window")[1].tolist() == [4, 2, 8]
    assert features("one-hot", "residue", policy="skip")[0].shape == (6, COLUMNS)


def test_random_weights_have_the_shape_and_the_vocabulary_and_not_the_weights(tmp_path):
    make_untrained(
        tmp_path / "model",
        "mine",
        "esm1nv",
        {"layers": 2, "hidden": 16, "heads": 2, "feed_forward": 24, "positions": 24},
        5,
    )
    folder = random_model(tmp_path / "model", tmp_path / "random")
    mine, other = (load_model(path) for path in (tmp_path / "model", folder))
    shapes = [{name: tensor.shape for name, tensor in each.encoder.state_dict().items()} for each in (mine, other)]
    assert shapes[0] == shapes[1]
    assert (mine.tokenizer.table == other.tokenizer.table).all()
    assert model_identity(folder)["trained"] is False
    assert model_identity(folder)["weights_sha256"] != model_identity(tmp_path / "model")["weights_sha256"]
    assert random_model(tmp_path / "model", tmp_path / "random") == folder


@pytest.mark.parametrize("kind", ["esm, head", "blenderbot", "t5"])
def test_every_architecture_has_random_weights(tmp_path, kind):
    folder = random_model(make(KINDS[kind], tmp_path / "model"), tmp_path / "random")
    mine, other = (load_model(path).encoder.state_dict() for path in (tmp_path / "model", folder))
    assert {name: tensor.shape for name, tensor in mine.items()} == {
        name: tensor.shape for name, tensor in other.items()
    }
