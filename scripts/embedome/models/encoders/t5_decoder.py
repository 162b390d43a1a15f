"""T5 decoder fed with the sequence itself: the decoder features of ProtT5-XL and Ankh.

Shapes: B sequences, L tokens, T tokens of all groups (`stream`), D model dimension, H heads, K dimension of a head,
F feed-forward dimension.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from embedome.models.encoders.grouped import StreamEncoder, attention, join, split
from embedome.models.encoders.t5 import (
    RelativeBias,
    T5Encoder,
    T5Layer,
    layer_modules,
    layer_sizes,
    relative_positions,
    rename_layers,
)

# A decoder layer's modules for looking at the encoder's output, and those of a checkpoint that are stacked.
CROSS_ATTENTION = {
    "cross_norm": ["1.layer_norm"],
    "cross_query": ["1.EncDecAttention.q"],
    "cross_key_value": ["1.EncDecAttention.k", "1.EncDecAttention.v"],
    "cross_attention_out": ["1.EncDecAttention.o"],
}


class T5DecoderLayer(T5Layer):
    """One layer: attention to what is behind, to the encoder's output, feed-forward."""

    def __init__(
        self, dimension: int, heads: int, head: int, feed_forward: int, eps: float, activation: str, gated: bool
    ) -> None:
        super().__init__(dimension, heads, head, feed_forward, eps, activation, gated)
        self.cross_norm = nn.RMSNorm(dimension, eps)
        self.cross_query = nn.Linear(dimension, heads * head, bias=False)
        self.cross_key_value = nn.Linear(dimension, 2 * heads * head, bias=False)
        self.cross_attention_out = nn.Linear(heads * head, dimension, bias=False)

    def forward(self, x: Tensor, shapes: Sequence[torch.Size], biases: Sequence[Tensor], encoded: Tensor) -> Tensor:
        """Map hidden states [T, D], as `T5Layer` does, given the encoder's output [T, D]."""
        return self.feed_forward(self.cross_attend(self.attend(x, shapes, biases), shapes, encoded))

    def cross_attend(self, x: Tensor, shapes: Sequence[torch.Size], encoded: Tensor) -> Tensor:
        """Attention of every token to all tokens of its sequence in the encoder, without a bias."""
        queries = split(self.cross_query(self.cross_norm(x)).unflatten(-1, (self.heads, -1)), shapes)
        pairs = split(self.cross_key_value(encoded).unflatten(-1, (2, self.heads, -1)), shapes)
        parts = zip(queries, pairs, strict=True)
        attended = [attention(query, *pair.unbind(2), scale=1.0) for query, pair in parts]
        return x + self.cross_attention_out(join(attended))


class T5Decoder(StreamEncoder):
    """Decoder whose output equals `transformers.T5Model` with the same tokens as input_ids and decoder_input_ids.

    That is what the authors of ProtT5 and Ankh call features of the decoder. Layers are counted in the decoder.

    Parameters
    ----------
    config : mapping
        The fields of a Hugging Face config.json with model_type ``t5``.

    Raises
    ------
    KeyError, ValueError
        As `T5Encoder`.
    """

    max_tokens = None
    float16_safe = False

    def __init__(self, config: Mapping) -> None:
        super().__init__()
        self.dimension = config["d_model"]
        self.n_layers = config.get("num_decoder_layers", config["num_layers"])
        buckets, max_distance = relative_positions(config)
        self.encoder = T5Encoder(config)
        self.bias = RelativeBias(config["num_heads"], buckets, max_distance, causal=True)
        self.layers = nn.ModuleList(T5DecoderLayer(*layer_sizes(config)) for _ in range(self.n_layers))
        self.final_norm = nn.RMSNorm(self.dimension, config["layer_norm_epsilon"])

    def stream(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """As `StreamEncoder.stream`."""
        shapes = [tokens.shape for tokens in groups]
        encoded = join(self.encoder.stream(groups))
        x = join([self.encoder.words(tokens) for tokens in groups])
        biases = [self.bias(length) for _, length in shapes]
        for layer in self.layers:
            x = layer(x, shapes, biases, encoded)
        return split(self.final_norm(x), shapes)

    @staticmethod
    def rename(weights: Mapping[str, Tensor], config: Mapping) -> dict[str, Tensor]:
        """Map the tensors of a Hugging Face checkpoint with a decoder to this module's names.

        Raises
        ------
        KeyError
            Names a tensor that is missing.
        """
        encoder = T5Encoder.rename(weights, config)
        renamed = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
        renamed["bias.table.weight"] = weights["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        renamed["final_norm.weight"] = weights["decoder.final_layer_norm.weight"]
        count = config.get("num_decoder_layers", config["num_layers"])
        return renamed | rename_layers(weights, "decoder", count, layer_modules(config, 2) | CROSS_ATTENTION)
