"""Models as Hugging Face directories: which architectures there are, making one, loading one."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedome.errors import UserError
from embedome.files import atomic_directory, file_sha256, read_json
from embedome.tokenizer import ResidueTokenizer, load_tokenizer, save_esm1nv_tokenizer

if TYPE_CHECKING:
    from torch import nn

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
# What embedome itself says of a model, in the model's config.json.
CONFIG_KEY = "embedome"


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the engine has to know of a model family, found by config.json's model_type."""

    encoder: Callable[[], type]
    """Imports and gives the encoder class."""
    first: str | None
    """Token before every sequence."""
    last: str | None
    """Token behind every sequence."""


def preln_encoder() -> type:
    """The encoder class of Megatron BERT."""
    from embedome.encoders.preln import PreLNEncoder

    return PreLNEncoder


ARCHITECTURES = {"megatron-bert": Architecture(preln_encoder, "<s>", "</s>")}


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model."""

    encoder: "nn.Module"
    tokenizer: ResidueTokenizer

    @property
    def max_residues(self) -> int:
        """Residues of the longest sequence that fits the positions."""
        return self.encoder.max_tokens - self.tokenizer.n_special


def model_identity(directory: str | os.PathLike) -> dict[str, Any]:
    """What identifies a model, for the provenance of its embeddings.

    Returns
    -------
    dict
        ``name``; ``trained``: False for random weights made by embedome, None where the directory does not say;
        ``weights_sha256``, ``config_sha256`` and ``tokenizer_sha256`` of the files.

    Raises
    ------
    UserError
        As `check_model_directory`.
    """
    check_model_directory(directory)
    directory = Path(directory)
    about = read_json(directory / CONFIG).get(CONFIG_KEY, {})
    return {
        "name": about.get("name", directory.name),
        "trained": about.get("trained"),
        "weights_sha256": file_sha256(directory / WEIGHTS),
        "config_sha256": file_sha256(directory / CONFIG),
        "tokenizer_sha256": file_sha256(directory / TOKENIZER),
    }


def check_model_directory(directory: str | os.PathLike) -> None:
    """Check that a folder holds a model embedome can load.

    Raises
    ------
    UserError
        Where it is missing, lacks a file, or is of another architecture.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such model directory; expected a folder with {CONFIG} and {WEIGHTS}")
    for name in (CONFIG, WEIGHTS, TOKENIZER):
        if not (directory / name).is_file():
            raise UserError(f"{directory}: the model directory has no {name}")
    config = read_json(directory / CONFIG)
    if not isinstance(config, dict):
        raise UserError(f"{directory / CONFIG}: expected a JSON object, as Hugging Face writes it")
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(f"{directory / CONFIG}: model_type is {kind!r}; expected one of {', '.join(ARCHITECTURES)}")


def load_model(directory: str | os.PathLike) -> Model:
    """Load a model directory in float32 on the CPU.

    Raises
    ------
    UserError
        Where a file is missing or damaged, a tensor is missing, has another shape or holds NaN or infinity, or the
        vocabulary is larger than the embedding.
    """
    check_model_directory(directory)
    directory = Path(directory)
    config = read_json(directory / CONFIG)
    architecture = ARCHITECTURES[config["model_type"]]
    tokenizer = load_tokenizer(directory, architecture.first, architecture.last)
    encoder = load_encoder(directory, architecture, config)
    if tokenizer.size > config["vocab_size"]:
        raise UserError(
            f"{directory}: the tokenizer has {tokenizer.size} tokens, but the model only {config['vocab_size']}"
        )
    return Model(encoder, tokenizer)


def load_encoder(directory: Path, architecture: Architecture, config: Mapping) -> "nn.Module":
    """Build an encoder and fill it with the directory's weights, checked tensor by tensor."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = directory / WEIGHTS
    kind = architecture.encoder()
    try:
        encoder = kind(config)
    except KeyError as error:
        raise UserError(f"{directory / CONFIG}: {error.args[0]} is missing") from None
    except ValueError as error:
        raise UserError(f"{directory / CONFIG}: {error}") from None
    try:
        weights = kind.rename(load_file(path), config)
    except SafetensorError as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); copy it again") from None
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing; the file is not whole or of another model") from None
    except RuntimeError as error:
        raise UserError(f"{path}: tensors have other shapes than by {CONFIG} ({error})") from None
    for name, parameter in encoder.state_dict().items():
        found = weights.get(name)
        if found is None or found.shape != parameter.shape:
            shape = None if found is None else tuple(found.shape)
            raise UserError(f"{path}: {name} has shape {shape}; expected {tuple(parameter.shape)} by {CONFIG}")
        if not torch.isfinite(found).all():
            raise UserError(f"{path}: {name} holds NaN or infinity; the file is damaged")
    encoder.load_state_dict(weights)
    return encoder.float().eval()


def make_untrained(directory: str | os.PathLike, name: str, size: Mapping[str, int]) -> None:
    """Write a Hugging Face directory of ESM-1nv's architecture with seeded random weights, marked untrained.

    Parameters
    ----------
    directory : path
        Put in place whole, at the end.
    name : str
        Name of the model, kept in config.json.
    size : mapping
        ``layers``, ``hidden``, ``heads``, ``feed_forward``, ``positions`` (tokens) and ``seed``.

    Notes
    -----
    Weights are normal with deviation 0.02, those of the output projections 0.02 / sqrt(2 layers), as the original
    is initialised (Megatron-LM, Shoeybi et al. 2019). The vocabulary of 30 is padded to 128 rows.

    Raises
    ------
    UserError
        Where heads do not divide the hidden size.
    """
    import torch
    from transformers import MegatronBertConfig, MegatronBertForMaskedLM

    if size["hidden"] % size["heads"]:
        raise UserError(f"model.untrained.hidden is {size['hidden']}; expected a multiple of heads, {size['heads']}")
    config = MegatronBertConfig(
        vocab_size=128,
        hidden_size=size["hidden"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        intermediate_size=size["feed_forward"],
        max_position_embeddings=size["positions"],
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-5,
        pad_token_id=3,
        bos_token_id=1,
        eos_token_id=2,
        **{CONFIG_KEY: {"name": name, "trained": False, "seed": size["seed"]}},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(size["seed"])
        model = MegatronBertForMaskedLM(config)
        model.bert.embeddings.token_type_embeddings.weight.data.zero_()
        for layer in model.bert.encoder.layer:
            for projection in (layer.attention.output.dense, layer.output.dense):
                projection.weight.data /= (2 * size["layers"]) ** 0.5
    with atomic_directory(directory) as folder:
        model.save_pretrained(folder)
        save_esm1nv_tokenizer(folder, size["positions"])
