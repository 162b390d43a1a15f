"""Weight files of a model directory: safetensors or pickles, whole or in several files.

Nothing but plain tensors is unpickled, and no file outside the directory is opened.
"""

import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.errors import UserError, first_line
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


def weight_files(directory: str | os.PathLike) -> list[Path]:
    """The files that hold a model's weights: one, or an index and the files it names.

    Raises
    ------
    UserError
        Where there is none, or the index is damaged or names a file that is missing or outside the directory.
    """
    directory = Path(directory)
    first = next((directory / name for name in WEIGHT_FILES if (directory / name).is_file()), None)
    if first is None:
        raise UserError(f"{directory}: the model directory has no {', '.join(WEIGHT_FILES[:-1])} or {WEIGHT_FILES[-1]}")
    if not first.name.endswith(INDEX):
        return [first]
    content = read_json(first)
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{first}: expected a weight_map, as Hugging Face writes it")
    for name in (names := sorted(set(map(str, listed.values())))):
        if Path(name).name != name:
            raise UserError(f"{first}: {name!r} is outside the directory; the model is not to be trusted")
        if not (directory / name).is_file():
            raise UserError(f"{first}: {name} is missing; copy the directory again")
    return [first, *(directory / name for name in names)]


def weights_sha256(directory: str | os.PathLike) -> str:
    """Digest of a model's weights: of the file, or of the digests of all of them."""
    files = weight_files(directory)
    if len(files) == 1:
        return file_sha256(files[0])
    return json_sha256({path.name: file_sha256(path) for path in files})


def open_weights(directory: str | os.PathLike) -> "Mapping[str, Tensor]":
    """A model's tensors by name, each read when it is asked for.

    Raises
    ------
    UserError
        Where a file is damaged or holds anything but tensors, or two files hold one tensor.
    """
    found: dict[str, Mapping[str, Tensor]] = {}
    for path in weight_files(directory):
        if path.name.endswith(INDEX):
            continue
        tensors = SafeTensors(path) if path.suffix == ".safetensors" else load_plain_tensors(path)
        for name in tensors:
            if name in found:
                raise UserError(f"{path}: {name} is in another file of the model too; copy the directory again")
            found[name] = tensors
    return Joined(found)


class SafeTensors(Mapping):
    """The tensors of a safetensors file."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            self.file = safe_open(path, "pt")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a readable safetensors file ({error}); copy it again") from None
        self.names = list(self.file.keys())

    def __getitem__(self, name: str) -> "Tensor":
        if name not in self.names:
            raise KeyError(name)
        return self.file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Joined(Mapping):
    """Tensors of several files, by name."""

    def __init__(self, owners: "Mapping[str, Mapping[str, Tensor]]") -> None:
        self.owners = owners

    def __getitem__(self, name: str) -> "Tensor":
        return self.owners[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.owners)

    def __len__(self) -> int:
        return len(self.owners)


def load_plain_tensors(path: str | os.PathLike, name: str | None = None) -> "dict[str, Tensor]":
    """Unpickle a mapping of names to tensors, and nothing else; `name` is what errors call the file.

    Raises
    ------
    UserError
        Where the file is damaged, or holds anything but tensors: such a pickle could run code, and is not opened.
    """
    import torch

    name = name or str(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = first_line(error) or type(error).__name__
        raise UserError(f"{name}: not a file of plain tensors ({reason}); it is not loaded") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{name}: holds more than tensors; it is not loaded")
    return dict(state)
