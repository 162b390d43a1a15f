"""Models to begin with: a directory, and NeMo archives of another vocabulary."""

import io
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from embedome.common.errors import UserError
from embedome.models.create import make_config
from embedome.models.nemo.convert import export_nemo, import_nemo
from embedome.training.beginning import as_directory, check_beginning
from embedome.training.model_files import hugging_face_tensors, read_model
from helpers.nemo_files import archive, saved
from helpers.small_run import rough_model, snapshot
from helpers.training_models import SIZES
from safetensors.torch import load_file, save_file

PROTT5NV = SIZES["prott5nv"]
ROWS = 200


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory of ProtT5nv's shape."""
    folder = rough_model(tmp_path_factory.mktemp("model") / "text", like="prott5nv", sizes=PROTT5NV)
    weights = load_file(folder / "model.safetensors")
    # NeMo has one table of positions.
    weights["model.decoder.embed_positions.weight"] = weights["model.encoder.embed_positions.weight"].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def text_archive(model, tmp_path_factory):
    """An archive of a T5 of text: its weights are those of the directory, its vocabulary is larger."""
    folder = tmp_path_factory.mktemp("archive")
    export_nemo(model, folder / "own.nemo")
    with tarfile.open(folder / "own.nemo") as tar:
        config = yaml.safe_load(tar.extractfile("model_config.yaml").read())
        state = torch.load(io.BytesIO(tar.extractfile("model_weights.ckpt").read()), weights_only=True)
    # What somebody else trained says nothing of embedome.
    config.pop("embedome", None)
    for name, tensor in state.items():
        if "word_embeddings" in name or "tokens_head" in name:
            state[name] = torch.cat([tensor, torch.full((ROWS - len(tensor), *tensor.shape[1:]), 7.0)])
    members = {
        "model_config.yaml": yaml.safe_dump(config).encode(),
        "text.vocab": b"".join(b"word%d\t0\n" % number for number in range(ROWS)),
        "model_weights.ckpt": saved(state),
    }
    return archive(folder / "text.nemo", members)


def tensors_of(init: str) -> dict[str, torch.Tensor]:
    config = make_config("prott5nv", PROTT5NV, {})
    return hugging_face_tensors(read_model(init, config, 0.0), config.to_dict())


def assert_same(init: str, model: Path) -> None:
    found, expected = tensors_of(init), load_file(model / "model.safetensors")
    assert found["model.shared.weight"].shape == (128, PROTT5NV["hidden"])
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items() if name in found)


def test_training_begins_with_an_archive_of_another_vocabulary_cut_to_its_first_rows(model, text_archive, tmp_path):
    with pytest.raises(UserError, match="vocabulary"):
        import_nemo(text_archive, tmp_path / "refused")
    init = as_directory(text_archive, tmp_path / "run")
    assert_same(init, model)
    before = snapshot(tmp_path / "run")
    assert as_directory(text_archive, tmp_path / "run") == init
    assert snapshot(tmp_path / "run") == before


def test_training_begins_with_a_directory_of_another_vocabulary_cut_to_its_first_rows(model, tmp_path):
    from transformers import BlenderbotForConditionalGeneration

    found = BlenderbotForConditionalGeneration.from_pretrained(model)
    found.resize_token_embeddings(ROWS, mean_resizing=False)
    found.save_pretrained(tmp_path / "text")
    (tmp_path / "text" / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    assert as_directory(tmp_path / "text", tmp_path / "run") == str(tmp_path / "text")
    assert not (tmp_path / "run").exists()
    assert_same(str(tmp_path / "text"), model)


def test_a_run_that_began_with_another_archive_is_refused(model, text_archive, tmp_path):
    as_directory(text_archive, tmp_path / "run")
    export_nemo(model, tmp_path / "other.nemo")
    with pytest.raises(UserError, match="began with another archive"):
        as_directory(tmp_path / "other.nemo", tmp_path / "run")


@pytest.mark.parametrize("name", ["nothing.nemo", "nothing"])
def test_what_is_not_there_is_an_error_of_one_line(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: no such"):
        check_beginning(tmp_path / name)
