"""The fields of a model's config.json that embedome reads: of the right kind, and with one meaning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedome.common.errors import UserError, quote_value
from embedome.models.registry import BERT, BLENDERBOT, ESM, ESMC, MEGATRON_BERT, ROBERTA, T5

# Far beyond every model: what is larger is damage, or made to exhaust a machine.
MOST = 2**24
MOST_LAYERS = 1000
SAVE_FLOAT = (
    "take the weights that it was made from, or save it in float: "
    "`AutoModel.from_pretrained(DIR).dequantize().save_pretrained(NEW)`"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field may hold."""

    words: str
    fits: Callable[[Any], bool]
    optional: bool = False
    """Whether it may be missing."""


def whole(least: int, most: int) -> Callable[[Any], bool]:
    """Return a check that a value is a whole number within limits."""
    return lambda value: type(value) is int and least <= value <= most


SIZE = Kind(f"a whole number from 1 to {MOST}", whole(1, MOST))
LAYERS = Kind(f"a whole number from 1 to {MOST_LAYERS}", whole(1, MOST_LAYERS))
TOKEN = Kind(f"the id of a token, a whole number from 0 to {MOST}", whole(0, MOST))
SMALL = Kind("a number from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1)
POSITIVE = Kind("a number above 0", lambda value: type(value) in (int, float) and 0 < value < 1e300, optional=True)
TEXT = Kind("a text", lambda value: isinstance(value, str))
TEXT_OR_NULL = Kind("a text or null", lambda value: value is None or isinstance(value, str), optional=True)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
FLAG_OR_NULL = Kind("true, false or null", lambda value: value is None or isinstance(value, bool), optional=True)
# Encoders are no decoders: as such, Hugging Face's classes would hide from each residue what comes after it.
NO = Kind("false, as embedome has encoders", lambda value: value is False, optional=True)
SIZE_OR_NULL = Kind(f"null, or {SIZE.words}", lambda value: value is None or SIZE.fits(value), optional=True)
OBJECT_OR_NULL = Kind("null or an object", lambda value: value is None or isinstance(value, dict), optional=True)
LAYERS_OR_NULL = Kind(f"null, or {LAYERS.words}", lambda value: value is None or LAYERS.fits(value), optional=True)


def maybe(kind: Kind) -> Kind:
    """Return a kind that may be missing."""
    return Kind(kind.words, kind.fits, optional=True)


COMMON = {
    "vocab_size": SIZE,
    "is_decoder": NO,
    "add_cross_attention": NO,
    "tie_word_embeddings": maybe(FLAG),
}
BERT_SIZES = {
    "hidden_size": SIZE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": SIZE,
    "intermediate_size": SIZE,
    "max_position_embeddings": SIZE,
    "layer_norm_eps": SMALL,
}
BERT_FIELDS = {"hidden_act": TEXT, "type_vocab_size": SIZE, "position_embedding_type": TEXT_OR_NULL}
FIELDS: Mapping[str, Mapping[str, Kind]] = {
    MEGATRON_BERT: {**COMMON, **BERT_SIZES, "hidden_act": TEXT, "type_vocab_size": maybe(SIZE)},
    BERT: {**COMMON, **BERT_SIZES, **BERT_FIELDS},
    ROBERTA: {**COMMON, **BERT_SIZES, **BERT_FIELDS, "pad_token_id": TOKEN},
    ESM: {
        **COMMON,
        **BERT_SIZES,
        "position_embedding_type": TEXT,
        "pad_token_id": TOKEN,
        "mask_token_id": maybe(TOKEN),
        "token_dropout": FLAG,
        "emb_layer_norm_before": FLAG_OR_NULL,
        "hidden_act": maybe(TEXT),
        "rope_theta": POSITIVE,
    },
    ESMC: {
        **COMMON,
        "hidden_size": SIZE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": SIZE,
        "intermediate_size": SIZE,
        "max_position_embeddings": SIZE,
        "hidden_act": TEXT_OR_NULL,
        "attention_bias": FLAG_OR_NULL,
        "mlp_bias": FLAG_OR_NULL,
        "num_key_value_heads": SIZE_OR_NULL,
        "head_dim": SIZE_OR_NULL,
        "rope_parameters": OBJECT_OR_NULL,
        "rope_theta": POSITIVE,
    },
    BLENDERBOT: {
        **COMMON,
        "d_model": SIZE,
        "encoder_layers": LAYERS,
        "encoder_attention_heads": SIZE,
        "encoder_ffn_dim": SIZE,
        "decoder_layers": maybe(LAYERS),
        "decoder_attention_heads": maybe(SIZE),
        "decoder_ffn_dim": maybe(SIZE),
        "max_position_embeddings": SIZE,
        "activation_function": TEXT,
        "scale_embedding": maybe(FLAG),
    },
    T5: {
        **COMMON,
        "d_model": SIZE,
        "d_kv": SIZE,
        "d_ff": SIZE,
        "num_layers": LAYERS,
        "num_decoder_layers": LAYERS_OR_NULL,
        "num_heads": SIZE,
        "relative_attention_num_buckets": SIZE,
        "relative_attention_max_distance": maybe(SIZE),
        "layer_norm_epsilon": SMALL,
        "feed_forward_proj": maybe(TEXT),
        "dense_act_fn": maybe(TEXT),
        "is_gated_act": maybe(FLAG),
    },
}
# What ESM-C's fused layout calls its sizes, the first of its models' contexts, and what its feed-forward dimension is a
# multiple of, the next after 8/3 of the model dimension.
ESMC_NAMES = {"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
ESMC_TOKENS, ESMC_MULTIPLE = 2048, 256
# Second names of fields; Hugging Face's classes take the values of these where both are given.
SECOND_NAMES = {
    T5: {
        "num_hidden_layers": "num_layers",
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "head_dim": "d_kv",
    },
    ESMC: {theirs: ours for ours, theirs in ESMC_NAMES.items()},
    BLENDERBOT: {
        "num_hidden_layers": "encoder_layers",
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
    },
}


def complete_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config.json, and beside those of ESM-C's fused layout what transformers calls them."""
    sizes = {ours: config[theirs] for ours, theirs in ESMC_NAMES.items() if theirs in config}
    if config["model_type"] != ESMC or len(sizes) < len(ESMC_NAMES):
        return dict(config)
    wide = sizes["hidden_size"]
    if SIZE.fits(wide):
        sizes["intermediate_size"] = -(-8 * wide // (3 * ESMC_MULTIPLE)) * ESMC_MULTIPLE
    return {"max_position_embeddings": ESMC_TOKENS, **sizes, **config}


def check_fields(path: Path, config: Mapping[str, Any]) -> None:
    """Check the fields of a config.json.

    Raises
    ------
    UserError
        Names the first that is missing, of another kind, or at odds with another; and as `check_not_quantised`.
    """
    check_not_quantised(path, config)
    for name, kind in FIELDS[config["model_type"]].items():
        if name not in config and not kind.optional:
            raise UserError(f"{path}: {name} is missing; expected {kind.words}")
        if name in config and not kind.fits(config[name]):
            raise UserError(f"{path}: {name} is {quote_value(config[name])}; expected {kind.words}")
    for second, name in SECOND_NAMES.get(config["model_type"], {}).items():
        if config.get(second) not in (None, config[name]):
            other = quote_value(config[second])
            raise UserError(f"{path}: {second} is {other}, but {name}, which means the same, is {config[name]}")


def check_not_quantised(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a quantised model.

    Raises
    ------
    UserError
    """
    if config.get("quantization_config") is not None:
        raise UserError(f"{path}: quantization_config says that the model is quantised; {SAVE_FLOAT}")
