"""New model directories: of any architecture in the registry, full size or shrunk, with given or random weights."""

import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedome.common.atomic_files import atomic_directory
from embedome.common.errors import UserError
from embedome.common.json_files import read_json
from embedome.common.outputs import check_new_folder, check_own_folder
from embedome.models.directory import CONFIG
from embedome.models.registry import (
    BERT,
    BLENDERBOT,
    CONFIG_KEY,
    ESM,
    ESMC,
    MEGATRON_BERT,
    ROBERTA,
    T5,
    RegisteredModel,
    find_entry,
)
from embedome.models.vocabularies import save_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)


MODEL_NAMES = re.compile(
    r"(generation_)?config\.json|model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|"
    r"tokenizer(_config)?\.json|special_tokens_map\.json|vocab\.txt"
)
# The fields of config.json that a size goes into.
BERT_SIZES = {
    "layers": ["num_hidden_layers"],
    "hidden": ["hidden_size"],
    "heads": ["num_attention_heads"],
    "feed_forward": ["intermediate_size"],
}
BERT_POSITIONS = {"positions": ["max_position_embeddings"]}
FIELDS = {
    MEGATRON_BERT: {**BERT_SIZES, **BERT_POSITIONS},
    BERT: {**BERT_SIZES, **BERT_POSITIONS},
    # Their tables have rows before the first position.
    ROBERTA: BERT_SIZES,
    ESM: BERT_SIZES,
    ESMC: BERT_SIZES,
    BLENDERBOT: {
        "layers": ["encoder_layers"],
        "decoder_layers": ["decoder_layers"],
        "hidden": ["d_model"],
        "heads": ["encoder_attention_heads", "decoder_attention_heads"],
        "feed_forward": ["encoder_ffn_dim", "decoder_ffn_dim"],
        "positions": ["max_position_embeddings"],
    },
    T5: {
        "layers": ["num_layers"],
        "decoder_layers": ["num_decoder_layers"],
        "hidden": ["d_model"],
        "heads": ["num_heads"],
        "feed_forward": ["d_ff"],
    },
}
CLASSES = {
    MEGATRON_BERT: "MegatronBertForMaskedLM",
    BERT: "BertForMaskedLM",
    ROBERTA: "RobertaForMaskedLM",
    BLENDERBOT: "BlenderbotForConditionalGeneration",
    ESM: "EsmForMaskedLM",
    ESMC: "EsmcForMaskedLM",
    T5: "T5ForConditionalGeneration",
}


def make_config(name: str, sizes: Mapping[str, int], about: Mapping[str, Any]) -> "PreTrainedConfig":
    """Return the Hugging Face configuration of a registered model, or of one of its architecture in other sizes.

    Parameters
    ----------
    name : str
        Of the registry.
    sizes : mapping of str to int
        As in `registry.RegisteredModel`, those that differ; fewer layers hold for the decoder too, unless it is named.
    about : mapping
        What embedome says of the model: name, trained, …

    Raises
    ------
    UserError
        Where the architecture has no such size, a size is not positive, or the heads do not divide the model dimension.
    """
    from transformers import AutoConfig

    entry = find_entry(name)
    values = {**entry.sizes, **sizes}
    if "layers" in sizes and "decoder_layers" in values and "decoder_layers" not in sizes:
        values["decoder_layers"] = min(sizes["layers"], entry.sizes["decoder_layers"])
    fields = FIELDS[entry.model_type]
    for size, value in values.items():
        if size not in fields:
            raise UserError(f"{name} has no {size.replace('_', ' ')} to choose; expected one of {', '.join(fields)}")
        if value < 1:
            raise UserError(f"{size} is {value}; expected 1 or more")
    if values["hidden"] % values["heads"]:
        raise UserError(
            f"the model dimension is {values['hidden']}; expected a multiple of the heads, {values['heads']}"
        )
    config = dict(entry.config)
    if "d_kv" in config and (values["hidden"], values["heads"]) != (entry.sizes["hidden"], entry.sizes["heads"]):
        config["d_kv"] = values["hidden"] // values["heads"]
    config |= {own: value for size, value in values.items() for own in fields[size]}
    return AutoConfig.for_model(entry.model_type, **config, **{CONFIG_KEY: dict(about)})


def make_untrained(directory: str | os.PathLike, name: str, like: str, sizes: Mapping[str, int], seed: int) -> None:
    """Write a directory with seeded random weights, marked untrained.

    Parameters
    ----------
    directory : path
    name : str
        Name of the new model, kept in config.json.
    like : str
        The registered model whose architecture it has.
    sizes : mapping
        As in `make_config`.
    seed : int
    """
    config = make_config(like, sizes, {"name": name, "trained": False, "seed": seed})
    save_directory(directory, like, config, check=check_own_directory)


def check_own_directory(directory: str | os.PathLike) -> None:
    """Check that a directory may be replaced by a model with random weights.

    Raises
    ------
    UserError
        Where embedome did not make it, or something else is in it.
    """
    advice = "set model.untrained to null to use what is there, or name a directory that is not there"
    check_own_folder(directory, MODEL_NAMES, is_untrained, advice)


def is_untrained(folder: Path) -> bool:
    """Return whether a folder is a model with random weights that embedome made."""
    path = folder / CONFIG
    if not path.is_file():
        # What Snakemake leaves of one: it removes the files first that the rule makes of every model.
        return os.listdir(folder) == ["generation_config.json"]
    config = read_json(path)
    about = config.get(CONFIG_KEY) if isinstance(config, dict) else None
    return isinstance(about, dict) and about.get("trained") is False


def save_directory(
    directory: str | os.PathLike,
    like: str,
    config: "PreTrainedConfig",
    tensors: "Mapping[str, Tensor] | None" = None,
    check: Callable[[str | os.PathLike], None] = check_new_folder,
) -> None:
    """Put a model directory in place: configuration, weights, tokenizer.

    Parameters
    ----------
    directory : path
    like : str
        The registered model whose vocabulary it has.
    config : transformers.PreTrainedConfig
    tensors : mapping of str to torch.Tensor, optional
        Weights of the Hugging Face class, all but the tied ones and the token types of Megatron BERT; without them,
        random ones by the seed in what embedome says of the model.
    check : callable
        As of `atomic_directory`: fails where what is at the path may not be replaced.
    """
    check(directory)
    entry = find_entry(like)
    model = random_model(entry, config) if tensors is None else fill_model(entry, config, tensors)
    size = sum(parameter.numel() for parameter in model.parameters())
    log.info("%s: writing %s parameters, %.2f GB", directory, f"{size:,}", 4e-9 * size)
    with atomic_directory(directory, check) as folder:
        model.save_pretrained(folder)
        save_tokenizer(folder, entry.vocabulary, longest_tokens(config))


def longest_tokens(config: "PreTrainedConfig") -> int | None:
    """Return the tokens of the longest sequence; None where positions have no end."""
    longest = getattr(config, "max_position_embeddings", None)
    # ESM and RoBERTa count positions from after the padding's.
    return longest - config.pad_token_id - 1 if config.model_type in (ESM, ROBERTA) else longest


def model_class(entry: RegisteredModel) -> "type[PreTrainedModel]":
    """Return the Hugging Face class with all heads that the checkpoint has."""
    import transformers

    return getattr(transformers, CLASSES[entry.model_type])


def random_model(entry: RegisteredModel, config: "PreTrainedConfig") -> "PreTrainedModel":
    """Make a model with random weights.

    ESM-1nv: normal with deviation 0.02, output projections 0.02 / sqrt(2 layers), as Megatron-LM initialises (Shoeybi
    et al. 2019, arXiv:1909.08053); token types zero, as it has none. ProtT5nv: normal with deviation 0.015
    (docs/models.md). Others as the Hugging Face class does it.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(getattr(config, CONFIG_KEY).get("seed", 0))
        model = model_class(entry)(config)
        if entry.model_type == T5 and entry.config.get("tie_word_embeddings") is False:
            untie_head(model)
    if entry.model_type == BLENDERBOT:
        # As trained: one table of positions for encoder and decoder, which the Hugging Face class has twice.
        positions = model.get_parameter("model.encoder.embed_positions.weight")
        model.get_parameter("model.decoder.embed_positions.weight").data.copy_(positions)
    if entry.model_type == MEGATRON_BERT:
        model.get_parameter("bert.embeddings.token_type_embeddings.weight").data.zero_()
        for layer in range(config.num_hidden_layers):
            for projection in ("attention.output", "output"):
                weight = model.get_parameter(f"bert.encoder.layer.{layer}.{projection}.dense.weight")
                weight.data /= (2 * config.num_hidden_layers) ** 0.5
    return model


def untie_head(model: "PreTrainedModel") -> None:
    """Add to a T5 an output matrix of its own: transformers 5 ties it to the embedding, whatever config.json says."""
    import torch

    weight = torch.nn.Parameter(torch.empty_like(model.get_parameter("shared.weight")))
    torch.nn.init.normal_(weight, std=model.config.initializer_factor)
    model.get_submodule("lm_head").weight = weight
    model.config.tie_word_embeddings = False


def fill_model(
    entry: RegisteredModel, config: "PreTrainedConfig", tensors: "Mapping[str, Tensor]"
) -> "PreTrainedModel":
    """Make a model with the given weights; tied ones are filled by what they are tied to."""
    model = random_model(entry, config)
    state = model.state_dict()
    given = {state[name].data_ptr() for name in tensors if name in state}
    tied = {name for name, tensor in state.items() if tensor.data_ptr() in given}
    left = model.load_state_dict(dict(tensors), strict=False)
    missing = set(left.missing_keys) - tied - {"bert.embeddings.token_type_embeddings.weight"}
    if left.unexpected_keys or missing:
        raise AssertionError(f"tensors do not fill the model: missing {missing}, unknown {left.unexpected_keys}")
    return model
