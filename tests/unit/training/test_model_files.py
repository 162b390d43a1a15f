"""Models to begin with: random ones as `embedome models init` makes them, and other models' weights."""

import json

import pytest
import torch
from embedome.common.errors import UserError
from embedome.models.create import make_config, make_untrained
from embedome.training.model_files import hugging_face_tensors, new_model, read_model
from embedome.training.own_model import check_own_model
from helpers.training_models import SIZES
from safetensors.torch import load_file, save_file
from torch.nn import functional


@pytest.mark.parametrize("name", SIZES)
def test_random_weights_are_those_of_models_init(name, tmp_path):
    make_untrained(tmp_path / "model", "made", name, SIZES[name], 3)
    config = make_config(name, SIZES[name], {"seed": 3})
    new, read = new_model(name, config, 0.0).state_dict(), read_model(tmp_path / "model", config, 0.0).state_dict()
    assert new.keys() == read.keys()
    assert all(torch.equal(new[key], read[key]) for key in new)


def test_ankh2_begins_with_ankh_large_and_its_activation_is_another(tmp_path):
    sizes = SIZES["ankh2-ext2"]
    make_untrained(tmp_path / "large", "large", "ankh-large", sizes, 5)
    config = make_config("ankh2-ext2", sizes, {})
    model = read_model(tmp_path / "large", config, 0.0)
    weights = load_file(tmp_path / "large" / "model.safetensors")
    found = hugging_face_tensors(model, config.to_dict())
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items() if name in found)
    assert set(found) <= set(weights)
    assert {layer.activation for layer in (*model.encoder.layers, *model.decoder.layers)} == {functional.silu}


def test_a_head_that_is_tied_begins_as_the_embedding_and_goes_its_own_way(tmp_path):
    sizes = SIZES["ankh2-ext2"]
    make_untrained(tmp_path / "large", "large", "ankh-large", sizes, 5)
    path = tmp_path / "large" / "model.safetensors"
    weights = load_file(path)
    del weights["lm_head.weight"]
    save_file(weights, path, {"format": "pt"})
    model = read_model(tmp_path / "large", make_config("ankh2-ext2", sizes, {}), 0.0)
    assert torch.equal(model.head, model.words)
    assert model.head.data_ptr() != model.words.data_ptr()


def test_token_types_become_part_of_the_positions(tmp_path):
    make_untrained(tmp_path / "model", "made", "esm1nv", SIZES["esm1nv"], 3)
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    weights["bert.embeddings.token_type_embeddings.weight"][0] = 1.5
    save_file(weights, path, {"format": "pt"})
    config = make_config("esm1nv", SIZES["esm1nv"], {})
    found = hugging_face_tensors(read_model(tmp_path / "model", config, 0.0), config.to_dict())
    expected = weights["bert.embeddings.position_embeddings.weight"] + 1.5
    assert torch.equal(found["bert.embeddings.position_embeddings.weight"], expected)


def test_a_model_that_embedome_did_not_make_is_not_replaced(tmp_path):
    make_untrained(tmp_path / "model", "made", "esm1nv", SIZES["esm1nv"], 3)
    # Random weights are given again by their seed.
    check_own_model(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["embedome"]["trained"] = True
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="embedome did not make it"):
        check_own_model(tmp_path / "model")
