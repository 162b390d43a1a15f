"""Pre-LN encoders with learned positions: Megatron BERT, the architecture of ESM-1nv, and ProtT5nv's.

Shapes: B sequences, L tokens, T tokens of all groups (`stream`), D model dimension, H heads, F feed-forward dimension.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from embedome.common.errors import quote_value
from embedome.models.encoders.grouped import StreamEncoder, attention, join, split
from embedome.models.encoders.layers import ACTIVATIONS, add_token_type, embedding
from embedome.models.tensors import TensorMap


class PreLNLayer(nn.Module):
    """One layer: ``x += Attention(LN(x)); x += MLP(LN(x))`` (Shoeybi et al. 2019, arXiv:1909.08053)."""

    def __init__(self, dimension: int, heads: int, feed_forward: int, eps: float, activation: str) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dimension, eps)
        self.qkv = nn.Linear(dimension, 3 * dimension)
        self.attention_out = nn.Linear(dimension, dimension)
        self.mlp_norm = nn.LayerNorm(dimension, eps)
        self.mlp_in = nn.Linear(dimension, feed_forward)
        self.mlp_out = nn.Linear(feed_forward, dimension)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        """Map hidden states [T, D] of groups of these shapes to hidden states [T, D]."""
        attended = [attention(*part.unbind(2)) for part in split(self.project(x), shapes)]
        return self.finish(x, join(attended))

    def project(self, x: Tensor) -> Tensor:
        """Return queries, keys and values, [T, 3, H, D/H]."""
        return self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the hidden states [T, D] after the layer, from those before it and the result of attention."""
        x = x + self.attention_out(attended)
        return x + self.mlp_out(self.activation(self.mlp_in(self.mlp_norm(x))))


class PreLN(StreamEncoder):
    """Embedding with learned positions, layers, a final LayerNorm.

    Parameters
    ----------
    rows, positions : int
        Of the embedding tables of tokens and positions.
    dimension, layers, heads, feed_forward : int
    eps : float
    activation : str
        Of `layers.ACTIVATIONS`.

    Raises
    ------
    ValueError
        Where the activation is not known, or the heads do not divide the dimension.
    """

    def __init__(
        self,
        rows: int,
        positions: int,
        dimension: int,
        layers: int,
        heads: int,
        feed_forward: int,
        eps: float,
        activation: str,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"the activation is {quote_value(activation)}; expected one of {', '.join(ACTIVATIONS)}")
        if dimension % heads:
            raise ValueError(f"the model dimension is {dimension}; expected a multiple of the heads, {heads}")
        self.dimension, self.n_layers, self.max_tokens = dimension, layers, positions
        self.words = embedding(rows, dimension)
        self.positions = embedding(positions, dimension)
        self.layers = nn.ModuleList(PreLNLayer(dimension, heads, feed_forward, eps, activation) for _ in range(layers))
        self.final_norm = nn.LayerNorm(dimension, eps)

    def stream(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """As `StreamEncoder.stream`."""
        shapes = [tokens.shape for tokens in groups]
        x = join([self.words(tokens) + self.positions.weight[: tokens.shape[1]] for tokens in groups])
        for layer in self.layers:
            x = layer(x, shapes)
        return split(self.final_norm(x), shapes)


class PreLNEncoder(PreLN):
    """Encoder whose output equals `transformers.MegatronBertModel` on sequences without padding.

    Parameters
    ----------
    config : mapping
        The fields of a Hugging Face config.json with model_type ``megatron-bert``.

    Raises
    ------
    KeyError
        Names a field that is missing.
    ValueError
        Says which field has a value that is not known.
    """

    def __init__(self, config: Mapping) -> None:
        super().__init__(
            config["vocab_size"],
            config["max_position_embeddings"],
            config["hidden_size"],
            config["num_hidden_layers"],
            config["num_attention_heads"],
            config["intermediate_size"],
            config["layer_norm_eps"],
            config["hidden_act"],
        )

        # Only until they are filled, see `settle`.
        self.token_types = embedding(config.get("type_vocab_size", TOKEN_TYPES), config["hidden_size"])

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """As `StreamEncoder.tensor_map`, of `transformers.MegatronBertModel`."""
        count = config["num_hidden_layers"]
        tables = {
            "words.weight": ["embeddings.word_embeddings.weight"],
            "positions.weight": ["embeddings.position_embeddings.weight"],
            "token_types.weight": ["embeddings.token_type_embeddings.weight"],
        }
        return TensorMap(
            parts=tables | norm_parts("encoder.ln") | layer_parts("encoder.layer.", count, MEGATRON_BERT_LAYER),
            prefix="bert.",
            unused=MEGATRON_BERT_UNUSED,
            layers={"encoder.layer": ("num_hidden_layers", count)},
        )

    def settle(self) -> None:
        """Add the embedding of token type 0 to the positions."""
        add_token_type(self.positions, self.token_types)
        del self.token_types


class BlenderbotEncoder(PreLN):
    """Encoder whose output equals the encoder of `transformers.BlenderbotModel`: ProtT5nv's.

    Parameters
    ----------
    config : mapping
        The fields of a Hugging Face config.json with model_type ``blenderbot``.

    Raises
    ------
    KeyError, ValueError
        As `PreLNEncoder`.
    """

    def __init__(self, config: Mapping) -> None:
        if config.get("scale_embedding"):
            raise ValueError("scale_embedding is true; expected false, as ProtT5nv has it")
        super().__init__(
            config["vocab_size"],
            config["max_position_embeddings"],
            config["d_model"],
            config["encoder_layers"],
            config["encoder_attention_heads"],
            config["encoder_ffn_dim"],
            BLENDERBOT_EPS,
            config["activation_function"],
        )

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """As `StreamEncoder.tensor_map`, of the encoder of `transformers.BlenderbotModel`."""
        count, tied = config["encoder_layers"], config.get("tie_word_embeddings", True)
        tables = {
            "words.weight": ["encoder.embed_tokens.weight"],
            "positions.weight": ["encoder.embed_positions.weight"],
        }
        return TensorMap(
            parts=tables | norm_parts("encoder.layer_norm") | layer_parts("encoder.layers.", count, BLENDERBOT_LAYER),
            prefix="model.",
            unused=BLENDERBOT_UNUSED,
            layers={"encoder.layers": ("encoder_layers", count)},
            ties={"encoder.embed_tokens.weight": ["shared.weight"]} if tied else {},
        )


# The default of torch.nn.LayerNorm, which the Hugging Face class leaves as it is.
BLENDERBOT_EPS = 1e-5
# A layer's modules, and those of a checkpoint that are stacked to make each.
MEGATRON_BERT_LAYER = {
    "attention_norm": ["attention.ln"],
    "qkv": ["attention.self.query", "attention.self.key", "attention.self.value"],
    "attention_out": ["attention.output.dense"],
    "mlp_norm": ["ln"],
    "mlp_in": ["intermediate.dense"],
    "mlp_out": ["output.dense"],
}
BLENDERBOT_LAYER = {
    "attention_norm": ["self_attn_layer_norm"],
    "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attention_out": ["self_attn.out_proj"],
    "mlp_norm": ["final_layer_norm"],
    "mlp_in": ["fc1"],
    "mlp_out": ["fc2"],
}


# Of config.json that do not say it.
TOKEN_TYPES = 2
# What the classes have beside their encoder: heads, poolers, decoders, and buffers of older releases.
MEGATRON_BERT_UNUSED = (
    r"embeddings\.position_ids",
    r"pooler\.dense\.(weight|bias)",
    r"cls\.(predictions|seq_relationship)\..+",
    r"(classifier|qa_outputs)\.(weight|bias)",
)
BLENDERBOT_UNUSED = (
    r"shared\.weight",
    r"decoder\..+",
    r"lm_head\.weight",
    r"final_logits_bias",
    r"encoder\.version",
)


def norm_parts(name: str) -> dict[str, list[str]]:
    """Return the names of the final LayerNorm in a checkpoint."""
    return {f"final_norm.{kind}": [f"{name}.{kind}"] for kind in ("weight", "bias")}


def layer_parts(prefix: str, count: int, modules: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return what a checkpoint's layers have for each tensor of `PreLNLayer`."""
    return {
        f"layers.{i}.{ours}.{kind}": [f"{prefix}{i}.{name}.{kind}" for name in theirs]
        for i in range(count)
        for ours, theirs in modules.items()
        for kind in ("weight", "bias")
    }
