"""The models that are trained: embedome's encoders with a decoder or a head on top, and dropout; nothing is padded.

Linear layers and norms run over all tokens of a micro-batch as one stream, attention over groups of one length
(`encoders.grouped`), the head over hidden residues alone.
Shapes: B sequences of a group, S tokens of each, U of each target, T of all groups, D model dimension, H heads,
K dimension of a head, V vocabulary, N labels of a micro-batch.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedome.decoding.masked_lm import Head
from embedome.models.encoders.grouped import attention, join, split
from embedome.models.encoders.prenorm import (
    BLENDERBOT_LAYER,
    BlenderbotEncoder,
    PreLN,
    PreLNEncoder,
    PreLNLayer,
    layer_parts,
    norm_parts,
)
from embedome.models.encoders.t5 import T5Encoder
from embedome.models.encoders.t5_decoder import T5DecoderLayer
from embedome.models.tensors import TensorMap
from embedome.training.device_batch import DeviceBatch, MaskedBatch, SpanBatch

BLENDERBOT_CROSS = {
    "cross_norm": ["encoder_attn_layer_norm"],
    "cross_query": ["encoder_attn.q_proj"],
    "cross_key_value": ["encoder_attn.k_proj", "encoder_attn.v_proj"],
    "cross_attention_out": ["encoder_attn.out_proj"],
}


Layer = TypeVar("Layer", bound=nn.Module)


class Guesses(NamedTuple):
    """What a model gives to N labels."""

    logits: Tensor
    """float32 [N, V]"""
    labels: Tensor
    """int64 [N]"""
    residues: Tensor | None
    """int64 [n], which labels are hidden residues; None where all are."""


class Scores(NamedTuple):
    """Sums over the labels of a micro-batch; scalars."""

    loss: Tensor
    """Negative log-probability of the labels, in nats: what is minimised."""
    labels: Tensor
    residue_loss: Tensor
    """The part of hidden residues, without a gradient."""
    residues: Tensor
    right: Tensor
    """Hidden residues that are guessed right."""


def run_plainly(compute: Callable[..., Tensor], layer: nn.Module, *inputs: Any) -> Tensor:
    """Compute something with a layer, and keep what its backward pass needs."""
    return compute(layer, *inputs)


class TrainedModel(nn.Module):
    """A model that is trained: what the three have in common.

    Parameters
    ----------
    dropout : float

    Attributes
    ----------
    run_layer : callable
        Given what is to be computed with a layer, the layer, and further arguments of the former, does so: all that
        uses a layer's weights goes through it (`sharding`).
    """

    prefix = ""
    """What the Hugging Face class with a head puts before names of the class without one."""
    unprefixed: tuple[str, ...] = ()
    """Beginnings of the names of which it does not."""
    copies: Mapping[str, str] = {}
    """Tensors that the Hugging Face class has besides, and those that they are copies of."""
    encoder: PreLN | T5Encoder

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.run_layer: Callable[..., Tensor] = run_plainly

    def forward(self, batch: DeviceBatch) -> Scores:
        """Score a micro-batch."""
        logits, labels, residues = self.guess(batch)
        losses = functional.cross_entropy(logits, labels, reduction="none")
        guessed, of_residues = logits.detach().argmax(-1) == labels, losses.detach()
        if residues is not None:
            guessed, of_residues = guessed[residues], of_residues[residues]
        counts = (torch.full((), len(each), device=logits.device) for each in (labels, of_residues))
        return Scores(losses.sum(), next(counts), of_residues.sum(), next(counts), guessed.sum())

    def guess(self, batch: Any) -> Guesses:
        """Return what the model gives to the labels of a micro-batch of its own kind."""
        raise NotImplementedError

    @property
    def words(self) -> Tensor:
        """The embedding of tokens [V, D]."""
        return self.encoder.words.weight

    def settle(self) -> None:
        """Do what remains to be done once all tensors are filled."""
        self.encoder.settle()

    def layers(self) -> Iterator[nn.Module]:
        """Return the layers, of the encoder, and of the decoder where there is one."""
        decoder = getattr(self, "decoder", None)
        return chain(self.encoder.layers, decoder.layers if decoder else ())

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """Return what the tensors of a Hugging Face checkpoint are to this module."""
        raise NotImplementedError

    def drop(self, x: Tensor) -> Tensor:
        """Dropout, while training."""
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        bias: Tensor | None = None,
        causal: bool = False,
        scale: float | None = None,
    ) -> Tensor:
        """Attend within each sequence of a group, of [B, L, H, K] each, to [B, L, H * K]."""
        dropout = self.dropout if self.training else 0.0
        return attention(query, key, value, bias=bias, scale=scale, dropout=dropout, causal=causal)

    def cross_attend(
        self,
        layer: "CrossLayer | T5DecoderLayer",
        x: Tensor,
        targets: Sequence[torch.Size],
        encoded: Tensor,
        sources: Sequence[torch.Size],
        scale: float | None = None,
    ) -> Tensor:
        """Attention of the targets' tokens [T, D] to all tokens of their sources."""
        queries = split(layer.cross_query(layer.cross_norm(x)).unflatten(-1, (layer.heads, -1)), targets)
        pairs = split(layer.cross_key_value(encoded).unflatten(-1, (2, layer.heads, -1)), sources)
        parts = zip(queries, pairs, strict=True)
        attended = [self.attend(query, *pair.unbind(2), scale=scale) for query, pair in parts]
        return x + self.drop(layer.cross_attention_out(join(attended)))


class PreLNModel(TrainedModel):
    """What ESM-1nv and ProtT5nv have in common."""

    encoder: PreLN

    def embed(self, tokens: Tensor, starts: Tensor | None = None) -> Tensor:
        """Embed tokens [B, L] and their positions, to [B, L, D]."""
        length, positions = tokens.shape[1], self.encoder.positions
        if starts is None:
            places = positions.weight[:length]
        else:
            places = positions(starts[:, None] + torch.arange(length, device=tokens.device))
        return self.drop(self.encoder.words(tokens) + places)

    def self_attend(
        self, layer: PreLNLayer, x: Tensor, shapes: Sequence[torch.Size], *, causal: bool = False
    ) -> Tensor:
        """Compute the attention half of a layer."""
        attended = [self.attend(*part.unbind(2), causal=causal) for part in split(layer.project(x), shapes)]
        return self.add_attention(layer, x, join(attended))

    def add_attention(self, layer: PreLNLayer, x: Tensor, attended: Tensor) -> Tensor:
        """Add to hidden states [T, D] what their tokens found."""
        return x + self.drop(layer.attention_out(attended))

    def feed_forward(self, layer: PreLNLayer, x: Tensor) -> Tensor:
        """Compute the other half."""
        return x + self.drop(layer.mlp_out(layer.activation(layer.mlp_in(layer.mlp_norm(x)))))

    def encode(self, layers: Sequence[PreLNLayer], x: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        """Map hidden states [T, D], or embedded tokens, to those after some layers."""
        for layer in layers:
            x = self.run_layer(self.encode_layer, layer, x, shapes)
        return x

    def encode_layer(self, layer: PreLNLayer, x: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        """Map hidden states [T, D] to those after a layer of the encoder."""
        return self.feed_forward(layer, self.self_attend(layer, x, shapes))


class MaskedModel(PreLNModel):
    """ESM-1nv: an encoder, and a head that guesses masked residues.

    Parameters
    ----------
    config : mapping
        The fields of a Hugging Face config.json with model_type ``megatron-bert``.
    dropout : float
    """

    prefix = "bert."
    unprefixed = ("cls.",)

    def __init__(self, config: Mapping, dropout: float) -> None:
        super().__init__(dropout)
        self.encoder = PreLNEncoder(config)
        self.head = Head(config)

    def guess(self, batch: MaskedBatch) -> Guesses:
        """As `TrainedModel.guess`."""
        shapes = [tokens.shape for tokens in batch.tokens]
        *layers, last = of_kind(self.encoder.layers, PreLNLayer)
        x = join([self.embed(tokens, starts) for tokens, starts in zip(batch.tokens, batch.starts, strict=True)])
        x = self.run_layer(self.see_hidden, last, self.encode(layers, x, shapes), shapes, batch)
        logits = self.head(self.encoder.final_norm(x), self.words).float()
        return Guesses(logits, batch.labels, None)

    def see_hidden(self, layer: PreLNLayer, x: Tensor, shapes: Sequence[torch.Size], batch: MaskedBatch) -> Tensor:
        """Compute the last layer, [T, D] to [N, D]: of its output hidden residues alone are needed.

        Keys and values are those of all tokens. Of each group the rows of queries, one for each hidden residue, are
        padded to the longest: what padding finds is left out.
        """
        normed, dimension = layer.attention_norm(x), x.shape[1]
        (weight, others), (bias, other_biases) = (
            part.split([dimension, 2 * dimension]) for part in (layer.qkv.weight, layer.qkv.bias)
        )
        query = functional.linear(normed[batch.hidden], weight, bias)
        pairs = split(functional.linear(normed, others, other_biases).unflatten(-1, (2, layer.heads, -1)), shapes)
        widths = [torch.Size((shape[0], width)) for shape, width in zip(shapes, batch.widths, strict=True)]
        rows = query.new_zeros(sum(map(math.prod, widths)), dimension).index_copy(0, batch.places, query)
        queries = split(rows.unflatten(-1, (layer.heads, -1)), widths)
        attended = join([self.attend(query, *pair.unbind(2)) for query, pair in zip(queries, pairs, strict=True)])
        return self.feed_forward(layer, self.add_attention(layer, x[batch.hidden], attended[batch.places]))

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """As `TrainedModel.tensor_map`, of `transformers.MegatronBertForMaskedLM`."""
        encoder, head = PreLNEncoder.tensor_map(config), Head.tensor_map(config)
        parts = under("encoder", encoder.parts) | under("head", head.parts)
        unused = (r"embeddings\.position_ids", r"pooler\..+", r"cls\.seq_relationship\..+")
        return TensorMap(parts, MaskedModel.prefix, unused, encoder.layers, renamed=head.renamed)


class CrossLayer(PreLNLayer):
    """A layer of ProtT5nv's decoder, which looks at the encoder's output, too."""

    def __init__(self, dimension: int, heads: int, feed_forward: int, eps: float, activation: str) -> None:
        super().__init__(dimension, heads, feed_forward, eps, activation)
        self.cross_norm = nn.LayerNorm(dimension, eps)
        self.cross_query = nn.Linear(dimension, dimension)
        self.cross_key_value = nn.Linear(dimension, 2 * dimension)
        self.cross_attention_out = nn.Linear(dimension, dimension)


class PreLNDecoder(nn.Module):
    """The tensors of ProtT5nv's decoder; tokens and positions are the encoder's.

    Parameters
    ----------
    config : mapping
    eps : float
    """

    def __init__(self, config: Mapping, eps: float) -> None:
        super().__init__()
        sizes = (config["d_model"], config["decoder_attention_heads"], config["decoder_ffn_dim"])
        self.layers = nn.ModuleList(
            CrossLayer(*sizes, eps, config["activation_function"]) for _ in range(config["decoder_layers"])
        )
        self.final_norm = nn.LayerNorm(config["d_model"], eps)


class PreLNSeq2Seq(PreLNModel):
    """ProtT5nv: encoder and decoder with one table of tokens, which is the output matrix, too, and one of positions.

    Parameters
    ----------
    config : mapping
        The fields of a Hugging Face config.json with model_type ``blenderbot``.
    dropout : float
    """

    prefix = "model."
    unprefixed = ("final_logits_bias",)
    copies: Mapping[str, str] = {"model.decoder.embed_positions.weight": "model.encoder.embed_positions.weight"}

    def __init__(self, config: Mapping, dropout: float) -> None:
        super().__init__(dropout)
        encoder = BlenderbotEncoder(config)
        norm = cast("nn.LayerNorm", encoder.final_norm)
        self.encoder, self.decoder = encoder, PreLNDecoder(config, norm.eps)
        self.bias = nn.Parameter(torch.empty(1, config["vocab_size"]))

    def cut_vocabulary(self, rows: int) -> None:
        """Leave the first rows of the table of tokens, and of the output's bias."""
        self.encoder.words = nn.Embedding.from_pretrained(self.words.detach()[:rows].clone(), freeze=False)
        self.bias = nn.Parameter(self.bias.detach()[:, :rows].clone())

    def guess(self, batch: SpanBatch) -> Guesses:
        """As `TrainedModel.guess`."""
        sources, targets = [source.shape for source in batch.sources], [target.shape for target in batch.targets]
        encoded = join([self.embed(source) for source in batch.sources])
        encoded = self.encode(of_kind(self.encoder.layers, PreLNLayer), encoded, sources)
        encoded = self.encoder.final_norm(encoded)
        x = join([self.embed(target) for target in batch.targets])
        for layer in of_kind(self.decoder.layers, CrossLayer):
            x = self.run_layer(self.decode_layer, layer, x, targets, encoded, sources)
        logits = functional.linear(self.decoder.final_norm(x), self.words, self.bias[0]).float()
        return Guesses(logits, batch.labels, batch.residues)

    def decode_layer(
        self,
        layer: CrossLayer,
        x: Tensor,
        targets: Sequence[torch.Size],
        encoded: Tensor,
        sources: Sequence[torch.Size],
    ) -> Tensor:
        """Map hidden states [T, D] to those after a layer of the decoder."""
        x = self.self_attend(layer, x, targets, causal=True)
        return self.feed_forward(layer, self.cross_attend(layer, x, targets, encoded, sources))

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """As `TrainedModel.tensor_map`, of `transformers.BlenderbotForConditionalGeneration`."""
        encoder, count = BlenderbotEncoder.tensor_map(config), config["decoder_layers"]
        decoder = layer_parts("decoder.layers.", count, BLENDERBOT_LAYER | BLENDERBOT_CROSS)
        decoder |= norm_parts("decoder.layer_norm")
        parts = under("encoder", encoder.parts) | under("decoder", decoder)
        return TensorMap(
            parts | {"encoder.words.weight": ["shared.weight"], "bias": ["final_logits_bias"]},
            PreLNSeq2Seq.prefix,
            (r"(encoder|decoder)\.version",),
            {**encoder.layers, "decoder.layers": ("decoder_layers", count)},
            renamed=(
                (r"^((encoder|decoder)\.embed_tokens|lm_head)\.weight$", "shared.weight"),
                (r"^decoder\.embed_positions\.weight$", "encoder.embed_positions.weight"),
            ),
        )


def of_kind(layers: nn.ModuleList, kind: type[Layer]) -> list[Layer]:
    """Return the layers of a list, all of which are of one class."""
    return cast("list[Layer]", list(layers))


def under(name: str, parts: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Return the tensors of a module as those of one that has it under a name."""
    return {f"{name}.{own}": theirs for own, theirs in parts.items()}
