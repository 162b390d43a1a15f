"""Pre-LN encoder with learned positions: Megatron BERT, the architecture of ESM-1nv.

Shapes: B sequences, L tokens, D model dimension, H heads, F feed-forward dimension.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


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

    def forward(self, x: Tensor) -> Tensor:
        """Map hidden states [B, L, D] to hidden states [B, L, D]."""
        batch, length, dimension = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, dimension // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, L, D/H]
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.attention_out(attended.transpose(1, 2).reshape(batch, length, dimension))
        return x + self.mlp_out(self.activation(self.mlp_in(self.mlp_norm(x))))


class PreLNEncoder(nn.Module):
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
        super().__init__()
        if config["hidden_act"] not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {config['hidden_act']!r}; expected one of {', '.join(ACTIVATIONS)}")
        self.dimension = config["hidden_size"]
        self.n_layers = config["num_hidden_layers"]
        self.max_tokens = config["max_position_embeddings"]
        self.words = nn.Embedding(config["vocab_size"], self.dimension)
        self.positions = nn.Embedding(self.max_tokens, self.dimension)
        self.layers = nn.ModuleList(
            PreLNLayer(
                self.dimension,
                config["num_attention_heads"],
                config["intermediate_size"],
                config["layer_norm_eps"],
                config["hidden_act"],
            )
            for _ in range(self.n_layers)
        )
        self.final_norm = nn.LayerNorm(self.dimension, config["layer_norm_eps"])

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, L] of sequences of one length to hidden states [B, L, D] after the final LayerNorm."""
        x = self.words(tokens) + self.positions.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.final_norm(x)

    @staticmethod
    def rename(weights: Mapping[str, Tensor], config: Mapping) -> dict[str, Tensor]:
        """Map the tensors of a Hugging Face checkpoint to this module's names.

        The token type embedding (always type 0) is added to the positions; query, key and value become one matrix.

        Raises
        ------
        KeyError
            Names a tensor that is missing.
        """
        prefix = "bert." if any(name.startswith("bert.") for name in weights) else ""

        def take(name: str) -> Tensor:
            return weights[prefix + name]

        token_type = take("embeddings.token_type_embeddings.weight")[0]
        renamed = {
            "words.weight": take("embeddings.word_embeddings.weight"),
            "positions.weight": take("embeddings.position_embeddings.weight") + token_type,
        }
        for kind in ("weight", "bias"):
            renamed[f"final_norm.{kind}"] = take(f"encoder.ln.{kind}")
            for i in range(config["num_hidden_layers"]):
                old, new = f"encoder.layer.{i}.", f"layers.{i}."
                qkv = [take(f"{old}attention.self.{part}.{kind}") for part in ("query", "key", "value")]
                renamed[f"{new}qkv.{kind}"] = torch.cat(qkv)
                for ours, theirs in LAYER_NAMES.items():
                    renamed[f"{new}{ours}.{kind}"] = take(f"{old}{theirs}.{kind}")
        return renamed


LAYER_NAMES = {
    "attention_norm": "attention.ln",
    "attention_out": "attention.output.dense",
    "mlp_norm": "ln",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
}
