"""ESM-1nv as a Hugging Face directory: its configuration, random weights, and putting it in place."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedome.errors import UserError
from embedome.files import atomic_directory
from embedome.models import CONFIG_KEY
from embedome.tokenizer import save_esm1nv_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import MegatronBertConfig

VOCABULARY_ROWS = 128  # 30 pieces, padded
# Zero, and tied to the word embeddings and to the head's bias.
NOT_IN_TENSORS = {
    "bert.embeddings.token_type_embeddings.weight",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
}


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a model of this architecture; the defaults are ESM-1nv's own.

    Parameters
    ----------
    layers, hidden, heads, feed_forward : int
        Number of layers, model dimension, attention heads, dimension of the feed-forward layer.
    positions : int
        Tokens of the longest sequence, its two special ones included.
    """

    layers: int = 6
    hidden: int = 768
    heads: int = 12
    feed_forward: int = 3072
    positions: int = 512


# The first release is said to have had 1,024 positions (docs/models.md).
NAMED = {"esm1nv": Size(), "esm1nv-1024": Size(positions=1024)}


def make_config(size: Size, about: Mapping[str, Any]) -> "MegatronBertConfig":
    """Hugging Face configuration; `about` is what embedome says of the model (name, trained, …).

    Raises
    ------
    UserError
        Where the heads do not divide the model dimension.
    """
    from transformers import MegatronBertConfig

    if size.hidden % size.heads:
        raise UserError(f"the model dimension is {size.hidden}; expected a multiple of the heads, {size.heads}")
    return MegatronBertConfig(
        vocab_size=VOCABULARY_ROWS,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.feed_forward,
        max_position_embeddings=size.positions,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-5,
        pad_token_id=3,
        bos_token_id=1,
        eos_token_id=2,
        **{CONFIG_KEY: dict(about)},
    )


def save_directory(
    directory: str | os.PathLike, config: "MegatronBertConfig", tensors: "Mapping[str, Tensor] | None" = None
) -> None:
    """Put a model directory in place: configuration, weights, tokenizer.

    Parameters
    ----------
    directory : path
    config : transformers.MegatronBertConfig
    tensors : mapping of str to torch.Tensor, optional
        Weights of MegatronBertForMaskedLM, all but the token types and the tied decoder; without them, random ones by
        the seed in what embedome says of the model.

    Notes
    -----
    Random weights are normal with deviation 0.02, those of the output projections 0.02 / sqrt(2 layers), as the
    original is initialised (Megatron-LM, Shoeybi et al. 2019). The token type embedding is zero: ESM-1nv has none.
    """
    import torch
    from transformers import MegatronBertForMaskedLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(getattr(config, CONFIG_KEY).get("seed", 0))
        model = MegatronBertForMaskedLM(config)
    model.bert.embeddings.token_type_embeddings.weight.data.zero_()
    if tensors is None:
        for layer in model.bert.encoder.layer:
            for projection in (layer.attention.output.dense, layer.output.dense):
                projection.weight.data /= (2 * config.num_hidden_layers) ** 0.5
    else:
        left = model.load_state_dict(dict(tensors), strict=False)
        if left.unexpected_keys or not set(left.missing_keys) <= NOT_IN_TENSORS:
            raise AssertionError(f"tensors do not fill the model: {left}")
    with atomic_directory(directory) as folder:
        model.save_pretrained(folder)
        save_esm1nv_tokenizer(folder, config.max_position_embeddings)


def make_untrained(directory: str | os.PathLike, name: str, size: Mapping[str, int]) -> None:
    """Write a directory with seeded random weights, marked untrained.

    Parameters
    ----------
    directory : path
    name : str
        Name of the model, kept in config.json.
    size : mapping
        The fields of `Size`, and ``seed``.
    """
    shape = {key: value for key, value in size.items() if key != "seed"}
    save_directory(directory, make_config(Size(**shape), {"name": name, "trained": False, "seed": size["seed"]}))
