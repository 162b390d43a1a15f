"""Model directories that transformers saved, and random damage: what the class gives, or a refusal in one line."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from embedome.models.config_fields import FIELDS
from helpers.saved_models import KINDS, Kind, compare, make, ours
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """Directories of all kinds, each made once."""
    folder = tmp_path_factory.mktemp("made")

    def directory(kind: Kind) -> Path:
        path = folder / re.sub(r"\W+", "-", kind.name)
        return path if path.exists() else make(kind, path)

    return directory


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.slow
def test_what_transformers_saved_is_read(kind: Kind, made: Callable[[Kind], Path]) -> None:
    assert compare(kind, made(kind)) is None


# Damage

Damage = Callable[[st.DrawFn, Path, dict[str, Any], dict[str, Tensor]], None]
TYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int8,
    torch.int64,
    torch.bool,
)
NEW_NAMES = (
    "extra.weight",
    "encoder.layer.2.attention.self.query.weight",
    "encoder.layers.2.fc1.weight",
    "encoder.block.2.layer.0.SelfAttention.q.weight",
    "decoder.block.1.layer.0.SelfAttention.q.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "shared.weight",
    "embeddings.position_ids",
    "esm.embeddings.LayerNorm.weight",
    "base_model.model.encoder.layer.0.attention.self.query.lora_A.default.weight",
    "encoder.layer.0.intermediate.dense.SCB",
    "encoder._extra_state",
    "pooler.dense.weight",
    "rotary_embeddings.inv_freq",
)


def drop(draw: st.DrawFn, folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    del weights[draw(st.sampled_from(sorted(weights)))]


def add(draw: st.DrawFn, folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    like = weights[draw(st.sampled_from(sorted(weights)))]
    weights[draw(st.sampled_from(NEW_NAMES))] = draw(st.sampled_from([like.clone(), torch.zeros_like(like)]))


def rename(draw: st.DrawFn, folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    old = draw(st.sampled_from(sorted(weights)))
    others = [f"{prefix}{old}" for prefix in ("bert.", "esm.", "model.", "transformer.", "module.", "_orig_mod.", "x.")]
    others += [old.partition(".")[2] or "x", old.upper(), f"{old}_orig", old.replace("weight", "gamma")]
    others += [old.replace(".0.", ".1."), old.replace(".1.", ".01."), *NEW_NAMES, *sorted(weights)]
    tensor = weights.pop(old)
    weights[draw(st.sampled_from(others))] = tensor


def swap(draw: st.DrawFn, folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    one, other = (draw(st.sampled_from(sorted(weights))) for _ in range(2))
    weights[one], weights[other] = weights[other], weights[one]


def cast(draw: st.DrawFn, folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    kind = draw(st.sampled_from(TYPES))
    for name in draw(st.one_of(st.just(sorted(weights)), st.lists(st.sampled_from(sorted(weights)), min_size=1))):
        weights[name] = weights[name].to(kind)


def reshape(draw: st.DrawFn, folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    name = draw(st.sampled_from(sorted(weights)))
    tensor = weights[name]
    changes = [
        tensor.flatten(),
        tensor[None],
        tensor.permute(*range(tensor.ndim)[::-1]),
        tensor[:-1],
        torch.cat([tensor, tensor]),
        tensor[..., :1],
        tensor[:0],
    ]
    weights[name] = draw(st.sampled_from(changes)).contiguous()


def uneven(draw: st.DrawFn, folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """A row of one tensor is given to another."""
    one, other = (draw(st.sampled_from(sorted(weights))) for _ in range(2))
    if one != other and weights[one].shape[1:] == weights[other].shape[1:]:
        weights[one], weights[other] = torch.cat([weights[one], weights[other][:1]]), weights[other][1:].contiguous()


def layers(draw: st.DrawFn, folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    field = draw(st.sampled_from([name for name in config if "layers" in name]))
    config[field] = draw(st.sampled_from([0, 1, 2, 3, 2**40, None, "2", 2.0, True, -1]))


def field(draw: st.DrawFn, folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """One that embedome reads; transformers checks others, too, that change no number."""
    name = draw(st.sampled_from(sorted(FIELDS[config["model_type"]])))
    changes = [
        st.none(),
        st.booleans(),
        st.integers(-1, 40),
        st.floats(-1, 2),
        st.just(2**62),
        st.just("relu"),
        st.just([]),
    ]
    config[name] = draw(st.one_of(*changes))


def wrap(draw: st.DrawFn, folder: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """A prefix of an adapter's or of quantised tensors, beside or within the name."""
    for name in draw(st.lists(st.sampled_from(sorted(weights)), min_size=1, max_size=3, unique=True)):
        stem, _, end = name.rpartition(".")
        forms = [f"{stem}.base_layer.{end}", f"{stem}.{end}_scale", f"{stem}.parametrizations.{end}.original0"]
        forms += [f"{stem}.lora_B.default.{end}", f"{stem}._orig_mod.{end}"]
        weights[draw(st.sampled_from(forms))] = weights.pop(name) if draw(st.booleans()) else weights[name].clone()


DAMAGES = (drop, add, rename, swap, cast, reshape, uneven, layers, field, wrap)


def save(draw: st.DrawFn, folder: Path, weights: dict[str, Tensor]) -> None:
    """Weights in any of the forms in which transformers has saved them, or with a fault in it."""
    (folder / "model.safetensors").unlink()
    form, shards = draw(st.sampled_from(["safetensors", "bin"])), draw(st.integers(1, 3))
    stem = "model" if form == "safetensors" else "pytorch_model"
    write = (lambda w, p: save_file(w, p, {"format": "pt"})) if form == "safetensors" else torch.save
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    if shards == 1:
        write(weights, folder / f"{stem}.{form}")
    else:
        files = {name: f"{stem}-{i % shards + 1:05d}-of-{shards:05d}.{form}" for i, name in enumerate(weights)}
        for file in set(files.values()):
            write({name: weights[name] for name, owner in files.items() if owner == file}, folder / file)
        fault = draw(st.sampled_from(["", "", "", "unlisted", "missing", "moved"]))
        if files and fault == "unlisted":
            files.popitem()
        elif files and fault == "moved":
            files[next(iter(files))] = sorted(set(files.values()))[-1]
        elif files and fault == "missing":
            (folder / next(iter(files.values()))).unlink()
        (folder / f"{stem}.{form}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def other_files(draw: st.DrawFn, folder: Path, weights: dict[str, Tensor]) -> None:
    """A file beside the model, or one too few."""
    what = draw(st.sampled_from(["", "", "", "stale", "adapter", "lfs", "generation", "config"]))
    if what == "stale":
        torch.save({name: torch.zeros_like(tensor) for name, tensor in weights.items()}, folder / "pytorch_model.bin")
    elif what == "adapter":
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    elif what == "lfs":
        for path in folder.glob("*model*"):
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif what == "generation":
        (folder / "generation_config.json").write_text("{}")
    elif what == "config":
        (folder / "config.json").unlink()


@st.composite
def damaged(draw: st.DrawFn, whole: Path, folder: Path) -> list[str]:
    """A copy of a directory with up to two faults; says which."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    damages = draw(st.lists(st.sampled_from(DAMAGES), max_size=2))
    for damage in damages:
        if weights:
            damage(draw, folder, config, weights)
    (folder / "config.json").write_text(json.dumps(config))
    save(draw, folder, weights)
    other_files(draw, folder, weights)
    return [damage.__name__ for damage in damages]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.slow
def test_a_damaged_directory_is_equal_to_the_class_or_refused(
    kind: Kind, made: Callable[[Kind], Path], tmp_path: Path
) -> None:
    @settings(max_examples=settings.default.max_examples * 3 // 10)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        data.draw(damaged(made(kind), tmp_path / "model"))
        compare(kind, tmp_path / "model")

    check()


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "config.json"])
@pytest.mark.slow
def test_damaged_bytes_are_refused_in_a_line_or_change_no_name(
    made: Callable[[Kind], Path], tmp_path: Path, file: str
) -> None:
    folder = shutil.copytree(made(KINDS["t5"]), tmp_path / "model")
    if file == "pytorch_model.bin":
        torch.save(load_file(folder / "model.safetensors"), folder / file)
        (folder / "model.safetensors").unlink()
    whole = (folder / file).read_bytes()
    ends = st.integers(0, min(2000, len(whole) - 1))
    places = st.one_of(st.integers(0, len(whole) - 1), ends, ends.map(lambda place: len(whole) - 1 - place))

    @given(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8), st.one_of(st.just(len(whole)), places))
    def check(changes: list[tuple[int, int]], length: int) -> None:
        damaged = bytearray(whole)
        for place, value in changes:
            damaged[place] = value
        (folder / file).write_bytes(damaged[:length])
        found = ours(KINDS["t5"], folder, torch.tensor([[3, 4, 5]]))
        assert not isinstance(found, str) or (found.isprintable() and len(found) < 600)

    check()
