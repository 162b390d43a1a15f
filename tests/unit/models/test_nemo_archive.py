"""NeMo archives that would unpack to far more than a model: refused before they do."""

import gzip
import io
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from embedome.common.errors import UserError
from embedome.models.nemo.convert import import_nemo
from helpers.nemo_files import archive, saved
from helpers.yaml_bombs import laughs, merges

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
MUCH = 1 << 27


def refusal(path: Path) -> str:
    start = time.monotonic()
    with pytest.raises(UserError) as excinfo:
        import_nemo(path, path.with_name("model"))
    assert time.monotonic() - start < 5
    assert not path.with_name("model").exists()
    assert str(excinfo.value).isprintable()
    assert len(str(excinfo.value)) < 600
    return str(excinfo.value)


class Zeros(io.RawIOBase):
    """A number of bytes of zeros."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = -1) -> bytes:
        size = min(self.left, size)
        self.left -= size
        return bytes(size)


@contextmanager
def gzipped(path: Path) -> Iterator[tarfile.TarFile]:
    with gzip.open(path, "wb", compresslevel=1) as handle, tarfile.open(fileobj=handle, mode="w") as tar:
        yield tar


def bomb(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> Path:
    """Many megabytes of zeros in one."""
    info = tarfile.TarInfo(name)
    info.size, info.type = MUCH, kind
    with gzipped(path) as tar:
        tar.addfile(info, Zeros(MUCH))
    assert path.stat().st_size < MUCH / 50
    return path


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "x.vocab", "of/no/use"])
def test_zeros_without_end_are_not_unpacked(tmp_path: Path, name: str) -> None:
    assert f"member '{name}' of 134,217,728 bytes" in refusal(bomb(tmp_path / "bad.nemo", name))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_attributes_without_end_are_not_read(tmp_path: Path, kind: bytes) -> None:
    assert "not a readable .nemo archive" in refusal(bomb(tmp_path / "bad.nemo", "x", kind))


def test_a_sparse_member_is_as_large_as_it_says(tmp_path: Path) -> None:
    """An archive that is not compressed, with a member of zeros that take no room."""
    info = tarfile.TarInfo(WEIGHTS)
    info.size = 0
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,0",
        "GNU.sparse.size": f"{MUCH}",
    }
    with tarfile.open(tmp_path / "bad.nemo", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    assert "of 134,217,728 bytes" in refusal(tmp_path / "bad.nemo")


@pytest.mark.slow
def test_members_without_end_are_not_listed(tmp_path: Path) -> None:
    with gzipped(tmp_path / "bad.nemo") as tar:
        for number in range(20_000):
            tar.addfile(tarfile.TarInfo(f"{number}"))
    assert "is not to be trusted" in refusal(tmp_path / "bad.nemo")


@pytest.mark.parametrize("text", [laughs(30), merges(30), "a: &a [*a]", "[" * 100_000])
@pytest.mark.slow
def test_yaml_bombs_are_refused(tmp_path: Path, text: str) -> None:
    path = archive(tmp_path / "bad.nemo", {CONFIG: text.encode(), WEIGHTS: saved({"model.x": torch.ones(1)})})
    assert CONFIG in refusal(path)


@pytest.mark.parametrize("name", ["num_layers", "hidden_size", "max_position_embeddings"])
@pytest.mark.parametrize("value", [2**40, "x" * 10_000, True])
def test_sizes_beyond_every_model_are_refused(tmp_path: Path, name: str, value: object) -> None:
    sizes = ("num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size", "max_position_embeddings")
    config = yaml.safe_dump({**dict.fromkeys(sizes, 4), name: value})
    path = archive(tmp_path / "bad.nemo", {CONFIG: config.encode(), WEIGHTS: saved({"model.x": torch.ones(1)})})
    assert f"{name} is " in refusal(path)


def test_integers_are_no_weights(tmp_path: Path) -> None:
    sizes = ("num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size", "max_position_embeddings")
    state = {"model.x": torch.ones(1, dtype=torch.int8)}
    path = archive(
        tmp_path / "bad.nemo", {CONFIG: yaml.safe_dump(dict.fromkeys(sizes, 4)).encode(), WEIGHTS: saved(state)}
    )
    assert "model.x is of type torch.int8; expected one of float64" in refusal(path)


SECTIONS = (
    {"encoder": "x" * 10_000},
    {"decoder": [1]},
    {"embedome": [1]},
    {"layernorm_epsilon": [1]},
    {"encoder": {1: 2}},
)


@pytest.mark.parametrize("config", SECTIONS)
def test_sections_of_another_kind_are_refused(tmp_path: Path, config: dict) -> None:
    members = {CONFIG: yaml.safe_dump(config).encode(), WEIGHTS: saved({"model.x": torch.ones(1)})}
    refusal(archive(tmp_path / "bad.nemo", members))
