"""Post-LN encoders with learned positions: BERT (ProtBERT, AntiBERTy) and RoBERTa (Sapiens).

Shapes: B sequences, L tokens, T tokens of all groups (`stream`), D model dimension, H heads, F feed-forward dimension.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from embedome.common.errors import quote_value
from embedome.models.encoders.grouped import StreamEncoder, attention, join, split
from embedome.models.encoders.layers import ACTIVATIONS, add_token_type, embedding
from embedome.models.tensors import LAYER_NORMS, TensorMap

ABSOLUTE = "absolute"


class PostLNLayer(nn.Module):
    """One layer: ``x = LN(x + Attention(x)); x = LN(x + MLP(x))`` (Devlin et al. 2019, arXiv:1810.04805)."""

    def __init__(self, dimension: int, heads: int, feed_forward: int, eps: float, activation: str) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dimension, 3 * dimension)
        self.attention_out = nn.Linear(dimension, dimension)
        self.attention_norm = nn.LayerNorm(dimension, eps)
        self.mlp_in = nn.Linear(dimension, feed_forward)
        self.mlp_out = nn.Linear(feed_forward, dimension)
        self.mlp_norm = nn.LayerNorm(dimension, eps)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        """Map hidden states [T, D] of groups of these shapes to hidden states [T, D]."""
        attended = [attention(*part.unbind(2)) for part in split(self.project(x), shapes)]
        return self.finish(x, join(attended))

    def project(self, x: Tensor) -> Tensor:
        """Return queries, keys and values, [T, 3, H, D/H]."""
        return self.qkv(x).unflatten(-1, (3, self.heads, -1))

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the hidden states [T, D] after the layer, from those before it and the result of attention."""
        x = self.attention_norm(x + self.attention_out(attended))
        return self.mlp_norm(x + self.mlp_out(self.activation(self.mlp_in(x))))


class BERTEncoder(StreamEncoder):
    """Encoder whose output equals `transformers.BertModel` on sequences without padding, all of token type 0.

    There is no norm after the last layer, whose own is its last operation.

    Parameters
    ----------
    config : mapping
        The fields of a Hugging Face config.json with model_type ``bert``.

    Raises
    ------
    KeyError
        Names a field that is missing.
    ValueError
        Says which field has a value that is not known.
    """

    prefix = "bert."

    def __init__(self, config: Mapping) -> None:
        super().__init__()
        check_supported(config)
        self.dimension, self.n_layers = config["hidden_size"], config["num_hidden_layers"]
        self.padding = self.padding_of(config)
        self.first_position = 0 if self.padding is None else self.padding + 1
        self.max_tokens = config["max_position_embeddings"] - self.first_position
        heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
        self.words = embedding(config["vocab_size"], self.dimension)
        self.positions = embedding(config["max_position_embeddings"], self.dimension)
        # Only until they are filled, see `settle`.
        self.token_types = embedding(config["type_vocab_size"], self.dimension)
        self.embedding_norm = nn.LayerNorm(self.dimension, eps)
        self.layers = nn.ModuleList(
            PostLNLayer(self.dimension, heads, config["intermediate_size"], eps, config["hidden_act"])
            for _ in range(self.n_layers)
        )
        self.final_norm = nn.Identity()

    @staticmethod
    def padding_of(config: Mapping) -> int | None:
        """Return `StreamEncoder.padding`."""
        return None

    def stream(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """As `StreamEncoder.stream`."""
        shapes = [tokens.shape for tokens in groups]
        positions = self.positions.weight[self.first_position :]
        x = self.embedding_norm(join([self.words(tokens) + positions[: tokens.shape[1]] for tokens in groups]))
        for layer in self.layers:
            x = layer(x, shapes)
        return split(self.final_norm(x), shapes)

    @classmethod
    def tensor_map(cls, config: Mapping) -> TensorMap:
        """As `StreamEncoder.tensor_map`, of `transformers.BertModel` or `transformers.RobertaModel`."""
        count, kinds = config["num_hidden_layers"], ("weight", "bias")
        parts = {f"{ours}.weight": [f"embeddings.{name}.weight"] for ours, name in TABLES.items()}
        parts |= {f"embedding_norm.{kind}": [f"embeddings.LayerNorm.{kind}"] for kind in kinds}
        parts |= {
            f"layers.{i}.{ours}.{kind}": [f"encoder.layer.{i}.{name}.{kind}" for name in theirs]
            for i in range(count)
            for ours, theirs in LAYER.items()
            for kind in kinds
        }
        return TensorMap(
            parts,
            prefix=cls.prefix,
            unused=UNUSED,
            layers={"encoder.layer": ("num_hidden_layers", count)},
            renamed=LAYER_NORMS,
        )

    def settle(self) -> None:
        """Add the embedding of token type 0 to the positions."""
        add_token_type(self.positions, self.token_types)
        del self.token_types


class RoBERTaEncoder(BERTEncoder):
    """Encoder whose output equals `transformers.RobertaModel`: BERT's, with positions from after the padding's.

    Parameters
    ----------
    config : mapping
        The fields of a Hugging Face config.json with model_type ``roberta``.

    Raises
    ------
    KeyError, ValueError
        As `BERTEncoder`.
    """

    prefix = "roberta."

    @staticmethod
    def padding_of(config: Mapping) -> int | None:
        """As `BERTEncoder.padding_of`."""
        return config["pad_token_id"]


def check_supported(config: Mapping) -> None:
    """Refuse what is no BERT of today's transformers.

    Raises
    ------
    KeyError, ValueError
        As `BERTEncoder`.
    """
    activation, positions = config["hidden_act"], config.get("position_embedding_type", ABSOLUTE)
    if activation not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {quote_value(activation)}; expected one of {', '.join(ACTIVATIONS)}")
    if positions not in (ABSOLUTE, None):
        raise ValueError(
            f"position_embedding_type is {quote_value(positions)}; expected 'absolute', the only one in transformers"
        )
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ValueError(
            f"hidden_size is {config['hidden_size']}; expected a multiple of num_attention_heads, "
            f"{config['num_attention_heads']}"
        )


TABLES = {"words": "word_embeddings", "positions": "position_embeddings", "token_types": "token_type_embeddings"}
# A layer's modules, and those of a checkpoint that are stacked to make each.
LAYER = {
    "qkv": [f"attention.self.{part}" for part in ("query", "key", "value")],
    "attention_out": ["attention.output.dense"],
    "attention_norm": ["attention.output.LayerNorm"],
    "mlp_in": ["intermediate.dense"],
    "mlp_out": ["output.dense"],
    "mlp_norm": ["output.LayerNorm"],
}
# What the classes have beside the encoder: buffers, poolers and heads; AntiBERTy has heads of its own.
UNUSED = (
    r"embeddings\.(position_ids|token_type_ids)",
    r"pooler\.dense\.(weight|bias)",
    r"cls\..+",
    r"lm_head\.(bias|(dense|layer_norm|decoder)\.(weight|bias))",
    r"classifier\.((dense|out_proj)\.)?(weight|bias)",
    r"qa_outputs\.(weight|bias)",
)
