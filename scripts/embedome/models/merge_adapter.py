"""An adapter and its base made one model directory, in float32: what `embed` takes."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedome.common.atomic_files import atomic_directory
from embedome.common.errors import UserError, cut
from embedome.common.json_files import file_sha256, read_json, write_json
from embedome.common.outputs import check_new_folder
from embedome.models.adapters import CONFIG as ADAPTER_CONFIG
from embedome.models.adapters import WEIGHT_FILES, Adapter, LowRank, read_adapter
from embedome.models.checkpoint import INDEX
from embedome.models.directory import ADAPTER, CONFIG, empty_model, model_identity, open_checkpoint, read_config
from embedome.models.hugging_face_tokenizer import vocabulary_files
from embedome.models.registry import CONFIG_KEY
from embedome.models.tensors import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

# Tensors that are in memory, and in one file, at once.
SHARD_BYTES = 4 << 30
SINGLE = "model.safetensors"


def merge_adapter(
    base: str | os.PathLike,
    adapter: str | os.PathLike,
    out: str | os.PathLike,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Add what an adapter adds to a model's matrices, and write the model, whole or not at all.

    Parameters
    ----------
    base : path
        Model directory.
    adapter : path
        Folder of an adapter, in peft's form.
    out : path
        The model directory to write, which is not there yet.
    about : mapping, optional
        What the provenance says of the adapter beside its files.

    Raises
    ------
    UserError
        As `directory.load_model` and `adapters.read_adapter`; where the adapter has a module that the model has not, or
        of another shape, or `out` is there.
    """
    base, adapter = Path(base), Path(adapter)
    check_new_folder(out)
    config = read_config(base)
    checkpoint = open_checkpoint(base, empty_model(base).encoder.tensor_map(config))
    found = read_adapter(adapter)
    added, replaced = place(found, checkpoint, adapter)
    with atomic_directory(out, check_new_folder) as temporary:
        write_shards(
            temporary, merged(checkpoint, added, replaced), float_bytes(checkpoint), checkpoint.weights.aliases
        )
        write_json(temporary / CONFIG, describe(base, adapter, about or {}))
        for path in vocabulary_files(base):
            shutil.copyfile(path, temporary / path.name)


def place(adapter: Adapter, checkpoint: Checkpoint, folder: Path) -> "tuple[dict[str, LowRank], dict[str, Tensor]]":
    """Return what is added to tensors, and what takes their place, by their names in the base's files.

    Raises
    ------
    UserError
        As `merge_adapter`.
    """
    added, replaced = {}, {}
    for module, matrix in adapter.matrices.items():
        owner = find_owner(checkpoint, f"{module}.weight")
        if owner is None:
            raise UserError(f"{folder}: {cut(module)} is no module of {checkpoint.path}; is it the adapter's base?")
        check_shape(checkpoint, owner, matrix.shape, folder)
        added[owner] = matrix
    for name, tensor in adapter.replaced.items():
        owner = find_owner(checkpoint, name)
        if owner is None:
            log.warning("%s: %s is left out: the model has no such tensor; is it a head?", folder, cut(name))
            continue
        check_shape(checkpoint, owner, tuple(tensor.shape), folder)
        replaced[owner] = tensor
    return added, replaced


def find_owner(checkpoint: Checkpoint, name: str) -> str | None:
    """Return the name in the files of a tensor, with or without what a class with a head puts before it."""
    found = checkpoint.find(checkpoint.expected.base_name(name))
    return checkpoint.owners[found][0] if found else None


def check_shape(checkpoint: Checkpoint, owner: str, shape: tuple[int, ...], folder: Path) -> None:
    """Refuse what does not fit a tensor of the base; raises as `merge_adapter`."""
    there = checkpoint.weights.header(owner).shape
    if there != shape:
        raise UserError(
            f"{folder}: what it adds to {cut(owner)} is {shape}, but the base's is {there}; is it its base?"
        )


def merged(
    checkpoint: Checkpoint, added: "Mapping[str, LowRank]", replaced: "Mapping[str, Tensor]"
) -> "Iterator[tuple[str, Tensor]]":
    """Yield all tensors of the base, those of floats in float32, with what the adapter makes of them."""
    for name in checkpoint.weights:
        tensor = replaced.get(name, checkpoint.weights[name])
        if tensor.is_floating_point():
            tensor = tensor.float()
        yield name, (tensor + added[name].product() if name in added else tensor).contiguous()


def float_bytes(checkpoint: Checkpoint) -> int:
    """Return the bytes of all tensors in float32."""
    return sum(4 * prod(checkpoint.weights.header(name).shape) for name in checkpoint.weights)


def write_shards(folder: Path, tensors: "Iterator[tuple[str, Tensor]]", size: int, aliases: Mapping[str, str]) -> None:
    """Write tensors to one file, or, where they are more than `SHARD_BYTES`, to several and an index."""
    from safetensors.torch import save_file

    metadata = {"format": "pt", **aliases}
    if size <= SHARD_BYTES:
        save_file(dict(tensors), folder / SINGLE, metadata=metadata)
        return
    places: dict[str, str] = {}
    for number, held in enumerate(in_shards(tensors), 1):
        name = f"model-{number:05}.safetensors"
        save_file(held, folder / name, metadata=metadata)
        places |= dict.fromkeys(held, name)
    write_json(folder / f"{SINGLE}{INDEX}", {"metadata": {"total_size": size}, "weight_map": places})


def in_shards(tensors: "Iterator[tuple[str, Tensor]]") -> "Iterator[dict[str, Tensor]]":
    """Yield tensors, at most `SHARD_BYTES` or a single one at once."""
    held: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if held and sum(map(count_bytes, held.values())) + count_bytes(tensor) > SHARD_BYTES:
            yield held
            held = {}
        held[name] = tensor
    yield held


def count_bytes(tensor: "Tensor") -> int:
    """Return the bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def describe(base: Path, adapter: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json of the merged model: the base's, in float32, and where it comes from."""
    config, identity = read_json(base / CONFIG), model_identity(base)
    names = [name for name in (ADAPTER_CONFIG, *WEIGHT_FILES) if (adapter / name).is_file()]
    own = {
        "name": f"{identity['name']}, adapted",
        "trained": True,
        ADAPTER: {"base": identity, "sha256": {name: file_sha256(adapter / name) for name in names}, **about},
    }
    dtype = "dtype" if "dtype" in config else "torch_dtype"
    return {**config, dtype: "float32", CONFIG_KEY: own}
