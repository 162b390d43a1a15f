"""T5 decoder fed with the sequence itself: the decoder features of ProtT5-XL and Ankh.

Shapes: B sequences, L tokens, T tokens of all groups (`stream`), D model dimension, H heads, K dimension of a head,
F feed-forward dimension.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from embedome.models.encoders.grouped import StreamEncoder, attention, join, split
from embedome.models.encoders.layers import embedding
from embedome.models.encoders.t5 import (
    PREFIX,
    UNUSED,
    RelativeBias,
    T5Encoder,
    T5Sublayers,
    layer_modules,
    layer_sizes,
    relative_positions,
    stack_parts,
)
from embedome.models.tensors import TensorMap

# A decoder layer's modules for looking at the encoder's output, and those of a checkpoint that are stacked.
CROSS_ATTENTION = {
    "cross_norm": ["1.layer_norm"],
    "cross_query": ["1.EncDecAttention.q"],
    "cross_key_value": ["1.EncDecAttention.k", "1.EncDecAttention.v"],
    "cross_attention_out": ["1.EncDecAttention.o"],
}


class T5DecoderLayer(T5Sublayers):
    """One layer: attention to the tokens before, attention to the encoder's output, feed-forward."""

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
        x, queries = self.turn(x, self.attend(x, shapes, biases))
        pairs = split(self.cross_key_value(encoded).unflatten(-1, (2, self.heads, -1)), shapes)
        parts = zip(split(queries, shapes), pairs, strict=True)
        return self.finish(x, join([attention(query, *pair.unbind(2), scale=1.0) for query, pair in parts]))

    def turn(self, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        """Return hidden states [T, D] after self-attention, and the queries [T, H, K] to the encoder's output.

        Every token attends to all tokens of its sequence in that output, without a bias.
        """
        x = x + self.attention_out(attended)
        return x, self.cross_query(self.cross_norm(x)).unflatten(-1, (self.heads, -1))

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """As `T5Layer.finish`, from the result of attention to the encoder's output."""
        return self.feed_forward(x + self.cross_attention_out(attended))


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
        self.n_layers = decoder_layers(config)
        buckets, max_distance = relative_positions(config)
        self.encoder = T5Encoder(config)
        # Mostly the encoder's, but a checkpoint may have two tables.
        self.words = embedding(config["vocab_size"], self.dimension)
        self.bias = RelativeBias(config["num_heads"], buckets, max_distance, causal=True)
        self.layers = nn.ModuleList(T5DecoderLayer(*layer_sizes(config)) for _ in range(self.n_layers))
        self.final_norm = nn.RMSNorm(self.dimension, config["layer_norm_epsilon"])

    def stream(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """As `StreamEncoder.stream`."""
        shapes = [tokens.shape for tokens in groups]
        encoded = join(self.encoder.stream(groups))
        x = join([self.words(tokens) for tokens in groups])
        biases = [self.bias(length) for _, length in shapes]
        for layer in self.layers:
            x = layer(x, shapes, biases, encoded)
        return split(self.final_norm(x), shapes)

    def group_bytes(self, length: int) -> int:
        """As `StreamEncoder.group_bytes`: its bias, and the encoder's last one."""
        return self.bias.bytes_of(length) + self.encoder.group_bytes(length)

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """As `StreamEncoder.tensor_map`, of `transformers.T5Model`."""
        encoder, count = T5Encoder.tensor_map(config), decoder_layers(config)
        parts = {f"encoder.{name}": names for name, names in encoder.parts.items()}
        return TensorMap(
            parts=parts | stack_parts("decoder", count, layer_modules(config, 2) | CROSS_ATTENTION),
            prefix=PREFIX,
            unused=(*UNUSED, UNUSED_BIAS),
            layers={**encoder.layers, "decoder.block": ("num_decoder_layers", count)},
            ties={
                "encoder.embed_tokens.weight": ["shared.weight", "decoder.embed_tokens.weight"],
                "decoder.embed_tokens.weight": ["shared.weight", "encoder.embed_tokens.weight"],
            },
        )


# Of the first layer's attention to the encoder; all released checkpoints have it, and no version of the class uses it.
UNUSED_BIAS = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"


def decoder_layers(config: Mapping) -> int:
    """Return the number of the decoder's layers: that of the encoder's, where config.json does not say."""
    count = config.get("num_decoder_layers")
    return config["num_layers"] if count is None else count
