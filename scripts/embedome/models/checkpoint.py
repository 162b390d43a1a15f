"""Weight files of a model directory: safetensors or pickles, whole or in several files.

Nothing but plain tensors is unpickled, and no file outside the directory is opened.
"""

import errno
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedome.common.errors import UserError, cut, first_line, quote_value
from embedome.common.json_files import file_sha256, json_sha256, read_json

if TYPE_CHECKING:
    from torch import Tensor

INDEX = ".index.json"
# In the order of preference.
WEIGHT_FILES = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
# What Git has in the place of a file that Git LFS keeps elsewhere.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# Plain float types by their names in safetensors; messages name other types as safetensors does.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# The class or function that torch does not unpickle.
FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")


def weight_files(directory: str | os.PathLike) -> list[Path]:
    """Return the files that hold a model's weights: one, or an index and the files it names.

    Raises
    ------
    UserError
        Where there is none, or the index is damaged or names a file that is missing or outside the directory.
    """
    directory = Path(directory)
    first = next((directory / name for name in WEIGHT_FILES if (directory / name).is_file()), None)
    if first is None:
        raise UserError(f"{directory}: the model directory has no {', '.join(WEIGHT_FILES[:-1])} or {WEIGHT_FILES[-1]}")
    check_fetched(first)
    if not first.name.endswith(INDEX):
        return [first]
    content = read_json(first)
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{first}: expected a weight_map, as Hugging Face writes it")
    for name in (names := sorted(set(map(str, listed.values())))):
        if Path(name).name != name:
            raise UserError(f"{first}: {quote_value(name)} is outside the directory; the model is not to be trusted")
        if not (directory / name).is_file():
            raise UserError(f"{first}: {cut(name)} is missing; copy the directory again")
        check_fetched(directory / name)
    return [first, *(directory / name for name in names)]


def weights_sha256(directory: str | os.PathLike) -> str:
    """Return the digest of a model's weights: of the file, or of the digests of all of them."""
    files = weight_files(directory)
    if len(files) == 1:
        return file_sha256(files[0])
    return json_sha256({path.name: file_sha256(path) for path in files})


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: str
    """As torch calls it, if it is one of plain floats."""


class Weights(Mapping):
    """Tensors by name, each read when it is asked for."""

    aliases: Mapping[str, str] = {}
    """Second names of tensors, and the names that these have in the file."""

    def header(self, name: str) -> Header:
        """Return shape and type of a tensor, which is not read."""
        raise NotImplementedError


def open_weights(directory: str | os.PathLike) -> Weights:
    """Open a model's tensors by name, each read when it is asked for.

    Raises
    ------
    UserError
        Where a file is damaged or holds anything but tensors, or two files hold one tensor.
    """
    found: dict[str, Weights] = {}
    aliases: dict[str, str] = {}
    for path in weight_files(directory):
        if path.name.endswith(INDEX):
            continue
        tensors = SafeTensors(path) if path.suffix == ".safetensors" else PlainTensors(load_plain_tensors(path))
        for name in tensors:
            if name in found:
                raise UserError(f"{path}: {cut(name)} is in another file of the model too; copy the directory again")
            found[name] = tensors
        aliases |= tensors.aliases
    return Joined(found, {name: owner for name, owner in aliases.items() if name not in found and owner in found})


def check_fetched(path: Path) -> None:
    """Refuse a pointer of Git LFS in the place of a file."""
    with open(path, "rb") as handle:
        if handle.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{path}: a pointer of Git LFS, not the file itself; run `git lfs pull` in its folder")


class SafeTensors(Weights):
    """The tensors of a safetensors file."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            self.file = safe_open(path, "pt")
        except (SafetensorError, OSError) as error:
            reason = cut(first_line(error))
            raise UserError(f"{path}: not a readable safetensors file ({reason}); copy it again") from None
        self.names = set(self.file.keys())
        # Where `safetensors.torch.save_model` has left out all names of a tensor but one.
        self.aliases = self.file.metadata() or {}

    def __getitem__(self, name: str) -> "Tensor":
        if name not in self.names:
            raise KeyError(name)
        return self.file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.file.keys())

    def __len__(self) -> int:
        return len(self.names)

    def header(self, name: str) -> Header:
        """As `Weights.header`."""
        found = self.file.get_slice(name)
        return Header(tuple(found.get_shape()), FLOATS.get(found.get_dtype(), found.get_dtype()))


class PlainTensors(Weights):
    """Tensors in memory."""

    def __init__(self, tensors: "Mapping[str, Tensor]") -> None:
        self.tensors = tensors

    def __getitem__(self, name: str) -> "Tensor":
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def header(self, name: str) -> Header:
        """As `Weights.header`."""
        return Header(tuple(self.tensors[name].shape), str(self.tensors[name].dtype).removeprefix("torch."))


class Joined(Weights):
    """Tensors of several files, by name."""

    def __init__(self, owners: Mapping[str, Weights], aliases: Mapping[str, str]) -> None:
        self.owners, self.aliases = owners, aliases

    def __getitem__(self, name: str) -> "Tensor":
        return self.owners[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.owners)

    def __len__(self) -> int:
        return len(self.owners)

    def header(self, name: str) -> Header:
        """As `Weights.header`."""
        return self.owners[name].header(name)


def load_plain_tensors(path: str | os.PathLike, name: str | None = None) -> "dict[str, Tensor]":
    """Unpickle a mapping of names to tensors, and nothing else; `name` is what errors call the file.

    Raises
    ------
    UserError
        Where the file is damaged, or holds anything but tensors: such a pickle could run code, and is not opened.
    """
    name = name or str(path)
    return check_plain_tensors(load_pickle(path, name), name)


def load_pickle(path: str | os.PathLike, name: str, allowed: Sequence[type] = ()) -> Any:
    """Unpickle tensors, plain values, and objects of the classes that are allowed: no code of the file is run.

    Raises
    ------
    UserError
        Where the file is damaged or holds anything else.
    """
    import torch

    # A checkpoint may be much larger than its encoder: tensors are read when they are used.
    mapped = is_archive(path, name)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # whatever bytes that are no pickle of torch's lead to
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise UserError(f"{name}: not a file of plain tensors ({reason(error)}); it is not loaded") from None


def check_plain_tensors(state: Any, name: str) -> "dict[str, Tensor]":
    """Return what was unpickled, if it is a mapping of names to tensors with values.

    Raises
    ------
    UserError
        Where it is anything else.
    """
    import torch

    if not isinstance(state, Mapping):
        raise UserError(f"{name}: holds more than tensors, a {type(state).__name__}; it is not loaded")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise UserError(
                f"{name}: holds more than tensors, {quote_value(key)} is a {type(value).__name__}; it is not loaded, "
                "save what `state_dict()` of the model returns"
            )
        if value.layout != torch.strided or value.device.type != "cpu":
            raise UserError(f"{name}: {cut(key)} is a tensor without values, or a sparse one; save it as a plain one")
    return dict(state)


def is_archive(path: str | os.PathLike, name: str) -> bool:
    """Return whether a file is a zip archive, as torch writes it now.

    Raises
    ------
    UserError
        Where it is damaged, or would be larger in memory than it is on disk: torch does not compress.
    """
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{name}: not a file of plain tensors ({cut(str(error))}); copy it again") from None
    if size > os.path.getsize(path):
        raise UserError(f"{name}: not a file of plain tensors as torch writes it, it is compressed; it is not loaded")
    return True


def reason(error: Exception) -> str:
    """Say why torch does not load a file, without its advice to load it unsafely."""
    if forbidden := FORBIDDEN.search(str(error)):
        return f"it holds {cut(forbidden[1])}; save what `state_dict()` of the model returns, or `save_pretrained`"
    if isinstance(error, pickle.UnpicklingError):
        return "damaged, or of another program"
    return cut(first_line(error)) or type(error).__name__
