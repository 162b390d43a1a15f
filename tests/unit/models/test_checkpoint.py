"""Weight files: safetensors and pickles, whole and in pieces; what is damaged or unsafe is refused by name."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from embedome.common.errors import UserError
from embedome.engine.engine import Engine
from embedome.engine.windows import Sequences
from embedome.models.checkpoint import open_weights, weight_files, weights_sha256
from embedome.models.directory import load_model, model_identity
from helpers import small_run as line
from safetensors.torch import load_file, save_file

INDEXED = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line.rough_model(tmp_path_factory.mktemp("weights") / "model")


def save(tensors: dict, path: Path) -> None:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path, {"format": "pt"})


def as_format(model: Path, folder: Path, kind: str, pieces: int) -> Path:
    """The same model in another format."""
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if kind == "safetensors" else "pytorch_model"
    if pieces == 1:
        save(tensors, folder / f"{stem}.{kind}")
        return folder
    owners = {name: f"{stem}-{i % pieces + 1:05d}-of-{pieces:05d}.{kind}" for i, name in enumerate(tensors)}
    for file in set(owners.values()):
        save({name: tensors[name] for name, owner in owners.items() if owner == file}, folder / file)
    (folder / INDEXED[kind]).write_text(json.dumps({"metadata": {}, "weight_map": owners}))
    return folder


@pytest.mark.parametrize(("kind", "pieces"), [("safetensors", 3), ("bin", 1), ("bin", 3)])
def test_every_format_gives_the_same_model(model: Path, tmp_path: Path, kind: str, pieces: int) -> None:
    other = as_format(model, tmp_path / "other", kind, pieces)
    expected = load_file(model / "model.safetensors")
    found = open_weights(other)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    sequences = Sequences.join([b"MKTAYIAKQR"])
    first, second = (Engine(load_model(folder)).embed(sequences).vectors["mean"] for folder in (model, other))
    assert (first == second).all()


def test_a_safetensors_file_comes_first(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "both")
    (folder / "pytorch_model.bin").write_bytes(b"not looked at")
    assert [path.name for path in weight_files(folder)] == ["model.safetensors"]
    assert model_identity(folder) == model_identity(model) | {"name": "rough"}


def test_the_digest_covers_every_file(model: Path, tmp_path: Path) -> None:
    folder = as_format(model, tmp_path / "pieces", "safetensors", 3)
    before = weights_sha256(folder)
    assert before == weights_sha256(folder) != weights_sha256(model)
    piece = weight_files(folder)[2]
    tensors = load_file(piece)
    next(iter(tensors.values())).add_(1)
    save(tensors, piece)
    assert weights_sha256(folder) != before


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


def index(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / INDEXED["bin"]
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


def first_shard(folder: Path) -> Path:
    return folder / "pytorch_model-00001-of-00003.bin"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: first_shard(folder).unlink(), "pytorch_model-00001-of-00003.bin is missing"),
        (index(lambda content: content["weight_map"].update(x="../x.bin")), "'../x.bin' is outside the directory"),
        (index(lambda content: content["weight_map"].update(x="/etc/passwd")), "is outside the directory"),
        (index(lambda content: content.pop("weight_map")), "expected a weight_map"),
        (lambda folder: (folder / INDEXED["bin"]).write_text("{"), "pytorch_model.bin.index.json"),
        (lambda folder: first_shard(folder).write_bytes(b"garbage"), "is not a file|not a file of plain tensors"),
        (lambda folder: first_shard(folder).write_bytes(b""), "not a file of plain tensors"),
        (lambda folder: os.truncate(first_shard(folder), 2000), "not a file of plain tensors"),
        (lambda folder: torch.save({"a": Evil()}, first_shard(folder)), "not a file of plain tensors"),
        (lambda folder: torch.save({"a": 1}, first_shard(folder)), "holds more than tensors"),
        (lambda folder: torch.save([torch.ones(1)], first_shard(folder)), "holds more than tensors"),
        (lambda folder: shutil.copy(folder / "pytorch_model-00002-of-00003.bin", first_shard(folder)), "another file"),
    ],
)
def test_a_damaged_or_unsafe_directory_is_refused_in_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object], message: str
) -> None:
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "evil"))
    folder = as_format(model, tmp_path / "bad", "bin", 3)
    damage(folder)
    with pytest.raises(UserError, match=message) as excinfo:
        load_model(folder)
    assert "\n" not in str(excinfo.value)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("change", ["missing", "shape", "nan"])
def test_a_wrong_tensor_is_named_in_every_format(model: Path, tmp_path: Path, kind: str, change: str) -> None:
    folder = as_format(model, tmp_path / "bad", kind, 1)
    path = weight_files(folder)[0]
    tensors = {name: open_weights(folder)[name].clone() for name in open_weights(folder)}
    name = "bert.encoder.ln.weight"
    if change == "missing":
        del tensors[name]
    elif change == "shape":
        tensors[name] = torch.ones(7)
    else:
        tensors[name][3] = float("nan")
    save(tensors, path)
    with pytest.raises(UserError, match=r"final_norm\.weight|encoder\.ln\.weight") as excinfo:
        load_model(folder)
    assert path.name in str(excinfo.value)
