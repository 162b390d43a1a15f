"""Models that transformers knows and embedome has no encoder for: which they are, and their sizes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedome.common.errors import UserError, cut, first_line, quote_value
from embedome.models.config_fields import LAYERS, MOST, SIZE
from embedome.models.registry import CONFIG_KEY

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# What every class calls these sizes, whatever config.json does.
SIZES = {"vocab_size": SIZE, "hidden_size": SIZE, "num_hidden_layers": LAYERS}


def is_known(model_type: str) -> bool:
    """Return whether transformers has a class for models of this type."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    return model_type in CONFIG_MAPPING and CONFIG_MAPPING[model_type] in MODEL_MAPPING


def own_config(config: Mapping[str, Any]) -> "PreTrainedConfig":
    """Return a config.json as transformers' class of its model_type.

    Raises
    ------
    ValueError
        Where it does not take the fields.
    """
    from transformers import AutoConfig

    fields = {name: value for name, value in config.items() if name not in (CONFIG_KEY, "auto_map")}
    try:
        return AutoConfig.for_model(**fields)
    except Exception as error:  # whatever a class says of fields that it does not take
        raise ValueError(f"transformers does not take it ({cut(first_line(error))})") from None


def complete_other(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config.json, and beside them the sizes that every class has, under the same names.

    Parameters
    ----------
    path : Path
        What errors call it.
    config : mapping
        Of a model type that `is_known`.

    Raises
    ------
    UserError
        Where a size is missing or beyond every model, and where the model is no encoder.
    """
    for name, value in numbers(config):
        if abs(value) > MOST:
            raise UserError(f"{path}: {name} is {quote_value(value)}; expected no number beyond {MOST}")
    try:
        own = own_config(config)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if own.is_encoder_decoder or getattr(own, "is_decoder", False):
        raise UserError(f"{path}: {config['model_type']} is no encoder alone; embedome has no support for its kind")
    sizes = {name: getattr(own, name, None) for name in SIZES}
    for name, kind in SIZES.items():
        if not kind.fits(sizes[name]):
            raise UserError(f"{path}: {name} is {quote_value(sizes[name])}; expected {kind.words}")
    return {**config, **sizes}


def numbers(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, int]]:
    """Yield the whole numbers in a config.json, at any depth, with their names."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{before}{name}.")
        elif type(value) is int:
            yield f"{before}{name}", value


def encoder_name(config: Mapping[str, Any]) -> str:
    """Return which class runs a model of a type that embedome has no encoder for, for the provenance."""
    import transformers

    kind: Any = transformers.MODEL_MAPPING[transformers.CONFIG_MAPPING[config["model_type"]]]
    return f"{kind.__name__} of transformers {transformers.__version__}"
