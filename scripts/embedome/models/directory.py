"""A Hugging Face model directory: checked, identified, loaded."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256, json_sha256, read_json
from embedome.models.architectures import ARCHITECTURES, DECODER, ENCODER
from embedome.models.checkpoint import open_weights, weight_files, weights_sha256
from embedome.models.hugging_face_tokenizer import VOCABULARY_FILES, vocabulary_file, vocabulary_files
from embedome.models.registry import CONFIG_KEY
from embedome.models.tokenizer import ResidueTokenizer, load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG = "config.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model."""

    encoder: "nn.Module"
    tokenizer: ResidueTokenizer

    @property
    def max_residues(self) -> int | None:
        """Residues of the longest sequence that fits the positions; None where every sequence does."""
        longest = self.encoder.max_tokens
        return None if longest is None else longest - self.tokenizer.n_special


def model_identity(directory: str | os.PathLike) -> dict[str, Any]:
    """What identifies a model, for the provenance of its embeddings.

    Returns
    -------
    dict
        ``name``; ``trained``: False for random weights made by embedome, None where the directory does not say;
        ``weights_sha256``, ``config_sha256`` and ``tokenizer_sha256`` of the files, the last of all that have a say in
        the vocabulary; ``preprocessing`` of sequences before their tokens are looked up.

    Raises
    ------
    UserError
        As `check_model_directory`.
    """
    check_model_directory(directory)
    directory = Path(directory)
    about = read_json(directory / CONFIG).get(CONFIG_KEY, {})
    vocabulary = {path.name: file_sha256(path) for path in vocabulary_files(directory)}
    return {
        "name": about.get("name", directory.name),
        "trained": about.get("trained"),
        "weights_sha256": weights_sha256(directory),
        "config_sha256": file_sha256(directory / CONFIG),
        "tokenizer_sha256": json_sha256(vocabulary),
        "preprocessing": read_tokenizer(directory).preparation,
    }


def model_dimension(directory: str | os.PathLike) -> int:
    """Length of a model's vectors, by its config.json."""
    config = read_json(Path(directory) / CONFIG)
    return config["hidden_size"] if "hidden_size" in config else config["d_model"]


def check_own_directory(directory: str | os.PathLike) -> None:
    """Check that a directory may be replaced by a model with random weights.

    Raises
    ------
    UserError
        Where it holds weights that are none of embedome's random ones.
    """
    directory = Path(directory)
    path = directory / CONFIG
    about = read_json(path).get(CONFIG_KEY, {}) if path.is_file() else {}
    weights = [each for each in directory.glob("*") if each.suffix in WEIGHT_SUFFIXES]
    if weights and about.get("trained") is not False:
        raise UserError(
            f"model.directory is {str(directory)!r}, which holds {weights[0].name}; set model.untrained to null to use "
            "these weights, or name a directory that is not there"
        )


def check_model_directory(directory: str | os.PathLike) -> None:
    """Check that a folder holds a model embedome can load.

    Raises
    ------
    UserError
        Where it is missing, lacks a file, or is of another architecture.
    """
    read_config(directory)
    weight_files(directory)


def read_config(directory: str | os.PathLike) -> dict[str, Any]:
    """A model directory's config.json; weights are not asked for.

    Raises
    ------
    UserError
        As `check_model_directory`.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such model directory; expected a folder with {CONFIG} and weights")
    if not (directory / CONFIG).is_file():
        raise UserError(f"{directory}: the model directory has no {CONFIG}")
    if not vocabulary_file(directory).is_file():
        raise UserError(
            f"{directory}: the model directory has no {', '.join(VOCABULARY_FILES[:-1])} or {VOCABULARY_FILES[-1]}"
        )
    config = read_json(directory / CONFIG)
    if not isinstance(config, dict):
        raise UserError(f"{directory / CONFIG}: expected a JSON object, as Hugging Face writes it")
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(f"{directory / CONFIG}: model_type is {kind!r}; expected one of {', '.join(ARCHITECTURES)}")
    return config


def read_tokenizer(directory: str | os.PathLike) -> ResidueTokenizer:
    """A model directory's vocabulary as a table, with the special tokens of its architecture.

    Raises
    ------
    UserError
        As `tokenizer.load_tokenizer`.
    """
    architecture = ARCHITECTURES[read_config(directory)["model_type"]]
    return load_tokenizer(directory, architecture.first, architecture.last, tasks=architecture.tasks)


def load_model(directory: str | os.PathLike, features: str = ENCODER) -> Model:
    """Load a model directory in float32 on the CPU.

    Parameters
    ----------
    directory : path
    features : str
        ``encoder``, or ``decoder`` where the architecture has decoder features.

    Raises
    ------
    UserError
        Where a file is missing or damaged, a tensor is missing, has another shape or holds NaN or infinity, the
        vocabulary is larger than the embedding, or there are no decoder features.
    """
    check_model_directory(directory)
    model = empty_model(directory, features)
    fill(model.encoder, open_weights(directory), read_config(directory), weight_files(directory)[0])
    return Model(model.encoder.eval(), model.tokenizer)


def empty_model(directory: str | os.PathLike, features: str = ENCODER) -> Model:
    """A model without weights, on torch's meta device: all that config.json and vocabulary tell.

    Raises
    ------
    UserError
        As `load_model`.
    """
    import torch

    directory = Path(directory)
    config = read_config(directory)
    architecture = ARCHITECTURES[config["model_type"]]
    tokenizer = read_tokenizer(directory)
    if features == DECODER and architecture.decoder is None:
        raise UserError(f"{directory}: embed.features is 'decoder', which {config['model_type']} does not have here")
    kind = (architecture.decoder if features == DECODER else architecture.encoder)()
    try:
        with torch.device("meta"):
            encoder = kind(config)
    except KeyError as error:
        raise UserError(f"{directory / CONFIG}: {error.args[0]} is missing") from None
    except ValueError as error:
        raise UserError(f"{directory / CONFIG}: {error}") from None
    if tokenizer.size > config["vocab_size"]:
        raise UserError(
            f"{directory}: the tokenizer has {tokenizer.size} tokens, but the model only {config['vocab_size']}"
        )
    return Model(encoder, tokenizer)


def fill(module: "nn.Module", tensors: "Mapping[str, Tensor]", config: Mapping, path: Path) -> None:
    """Give a module on the meta device a checkpoint's tensors in float32, by its own `rename`, checked one by one.

    Raises
    ------
    UserError
        Names the first tensor that is missing, has another shape, or holds NaN or infinity.
    """
    import torch

    try:
        weights = module.rename(tensors, config)
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing; the file is not whole or of another model") from None
    except RuntimeError as error:
        raise UserError(f"{path}: tensors have other shapes than by {CONFIG} ({error})") from None
    for name, parameter in module.state_dict().items():
        found = weights.get(name)
        if found is None or found.shape != parameter.shape:
            shape = None if found is None else tuple(found.shape)
            raise UserError(f"{path}: {name} has shape {shape}; expected {tuple(parameter.shape)} by {CONFIG}")
        # A sum that is finite has no other terms; one that is not may have overflown.
        if not torch.isfinite(found.sum()) and not torch.isfinite(found).all():
            raise UserError(f"{path}: {name} holds NaN or infinity; the file is damaged")
    # Copied, as those of a file are mapped into memory; to_empty would load half of torch's compiler for it. What was
    # put together for it is let go of one by one.
    copies = {name: weights.pop(name).to(torch.float32, copy=True) for name in list(weights)}
    module.load_state_dict(copies, assign=True)
