"""Ankh as it is trained: T5 encoder and decoder without padding.

Shapes: B sequences of a group, L tokens of each, T of all groups, D model dimension.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedome.models.encoders.grouped import join, split
from embedome.models.encoders.t5 import (
    PREFIX,
    RelativeBias,
    T5Encoder,
    T5Layer,
    T5Sublayers,
    layer_modules,
    layer_sizes,
    relative_positions,
    stack_parts,
)
from embedome.models.encoders.t5_decoder import CROSS_ATTENTION, UNUSED_BIAS, T5DecoderLayer, decoder_layers
from embedome.models.tensors import TensorMap
from embedome.training.device_batch import SpanBatch
from embedome.training.model import Guesses, TrainedModel, of_kind, under


class T5DecoderStack(nn.Module):
    """The tensors of T5's decoder; tokens are the encoder's.

    Parameters
    ----------
    config : mapping
    """

    def __init__(self, config: Mapping) -> None:
        super().__init__()
        buckets, max_distance = relative_positions(config)
        self.bias = RelativeBias(config["num_heads"], buckets, max_distance, causal=True)
        self.layers = nn.ModuleList(T5DecoderLayer(*layer_sizes(config)) for _ in range(decoder_layers(config)))
        self.final_norm = nn.RMSNorm(config["d_model"], config["layer_norm_epsilon"])


class T5Seq2Seq(TrainedModel):
    """Ankh: encoder and decoder with one table of tokens, and an output matrix of its own.

    Parameters
    ----------
    config : mapping
        The fields of a Hugging Face config.json with model_type ``t5``.
    dropout : float
    """

    encoder: T5Encoder

    def __init__(self, config: Mapping, dropout: float) -> None:
        super().__init__(dropout)
        self.encoder, self.decoder = T5Encoder(config), T5DecoderStack(config)
        self.head = nn.Parameter(torch.empty(config["vocab_size"], config["d_model"]))

    def self_attend(
        self, layer: T5Sublayers, x: Tensor, shapes: Sequence[torch.Size], biases: Sequence[Tensor]
    ) -> Tensor:
        """Compute the attention half of a layer."""
        parts = zip(split(layer.project(x), shapes), biases, strict=True)
        # Scores in bfloat16 take a bias in bfloat16.
        attended = [self.attend(*part.unbind(2), bias=bias.to(part.dtype), scale=1.0) for part, bias in parts]
        return x + self.drop(layer.attention_out(join(attended)))

    def feed_forward(self, layer: T5Sublayers, x: Tensor) -> Tensor:
        """Compute the other half."""
        return x + self.drop(layer.mlp_out(layer.activate(layer.mlp_in(layer.mlp_norm(x)))))

    def guess(self, batch: SpanBatch) -> Guesses:
        """As `TrainedModel.guess`."""
        sources, targets = [source.shape for source in batch.sources], [target.shape for target in batch.targets]
        encoded = self.drop(join([self.encoder.words(source) for source in batch.sources]))
        biases = [self.encoder.bias(length) for _, length in sources]
        for layer in of_kind(self.encoder.layers, T5Layer):
            encoded = self.run_layer(self.encode_layer, layer, encoded, sources, biases)
        encoded = self.drop(self.encoder.final_norm(encoded))
        x = self.drop(join([self.encoder.words(target) for target in batch.targets]))
        biases = [self.decoder.bias(length) for _, length in targets]
        for block in of_kind(self.decoder.layers, T5DecoderLayer):
            x = self.run_layer(self.decode_layer, block, x, targets, biases, encoded, sources)
        logits = functional.linear(self.drop(self.decoder.final_norm(x)), self.head).float()
        return Guesses(logits, batch.labels, batch.residues)

    def encode_layer(self, layer: T5Layer, x: Tensor, shapes: Sequence[torch.Size], biases: Sequence[Tensor]) -> Tensor:
        """Map hidden states [T, D] to those after a layer of the encoder."""
        return self.feed_forward(layer, self.self_attend(layer, x, shapes, biases))

    def decode_layer(
        self,
        layer: T5DecoderLayer,
        x: Tensor,
        targets: Sequence[torch.Size],
        biases: Sequence[Tensor],
        encoded: Tensor,
        sources: Sequence[torch.Size],
    ) -> Tensor:
        """Map hidden states [T, D] to those after a layer of the decoder."""
        x = self.self_attend(layer, x, targets, biases)
        return self.feed_forward(layer, self.cross_attend(layer, x, targets, encoded, sources, scale=1.0))

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """As `TrainedModel.tensor_map`, of `transformers.T5ForConditionalGeneration`."""
        encoder, count = T5Encoder.tensor_map(config), decoder_layers(config)
        decoder = stack_parts("decoder", count, layer_modules(config, 2) | CROSS_ATTENTION)
        del decoder["words.weight"]
        parts = under("encoder", encoder.parts) | under("decoder", decoder)
        return TensorMap(
            parts | {"encoder.words.weight": ["shared.weight"], "head": ["lm_head.weight"]},
            PREFIX,
            (UNUSED_BIAS,),
            {**encoder.layers, "decoder.block": ("num_decoder_layers", count)},
            # Of a model whose head is tied: it starts there, and goes its own way.
            ties={"lm_head.weight": ["shared.weight"]},
            renamed=((r"^(encoder|decoder)\.embed_tokens\.weight$", "shared.weight"),),
        )
