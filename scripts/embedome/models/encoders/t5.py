"""T5 encoder with relative positions: ProtT5-XL, ProstT5, Ankh.

Shapes: B sequences, L tokens, T tokens of all groups (`stream`), D model dimension, H heads, K dimension of a head,
F feed-forward dimension.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedome.common.errors import quote_value
from embedome.models.encoders.grouped import StreamEncoder, attention, join, split
from embedome.models.encoders.layers import embedding, tanh_gelu
from embedome.models.tensors import TensorMap

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_new": tanh_gelu,
    "silu": functional.silu,
}
# Rows of the bias begin at multiples of this many elements; CUDA kernels would copy it in every layer otherwise.
ALIGNMENT = 16
BIAS_QUERIES = 512
# Of configurations that were written before the field was.
MAX_DISTANCE = 128


class RelativeBias(nn.Module):
    """What the distance of two tokens adds to their attention score (Raffel et al. 2020, arXiv:1910.10683).

    Parameters
    ----------
    heads : int
    buckets : int
        Classes of distances, half of them for keys after the query; all of them for keys before it in a
        decoder, which does not look ahead.
    max_distance : int
        Tokens from which on all distances are one class.
    causal : bool
        Whether keys ahead of the query are hidden from it.
    """

    def __init__(self, heads: int, buckets: int, max_distance: int, *, causal: bool = False) -> None:
        super().__init__()
        self.max_distance, self.causal = max_distance, causal
        self.table = embedding(buckets, heads)
        self.known: tuple[tuple, Tensor] | None = None
        self.classes = torch.empty(0, dtype=torch.int64)

    def forward(self, length: int) -> Tensor:
        """Return the bias of every query and key, [1, H, L, L], kept until another length is asked for."""
        weight = self.table.weight
        if torch.is_grad_enabled():
            return self.compute(length)
        key = (length, weight.dtype, weight.device)
        if self.known is None or self.known[0] != key:
            self.known = None  # frees it before the next is computed
            self.known = key, self.compute(length)
        return self.known[1]

    def compute(self, length: int) -> Tensor:
        """Compute the bias of every query and key, [1, H, L, L]."""
        weight = self.table.weight
        by_distance = weight[self.classes_within(length)].T  # [H, 2L - 1]
        if self.causal:
            ahead = torch.arange(1 - length, length, device=weight.device) > 0
            by_distance = by_distance.masked_fill(ahead, float("-inf"))
        rows = by_distance.unfold(1, length, 1)  # [H, L, L], the last query's first
        bias = weight.new_empty(len(rows), length, round_up(length))[..., :length]
        # A few queries at a time, as turning them round makes a copy.
        for start in range(0, length, BIAS_QUERIES):
            end = min(start + BIAS_QUERIES, length)
            bias[:, start:end] = rows[:, length - end : length - start].flip(1)
        return bias[None]

    def bytes_of(self, length: int) -> int:
        """Return the bytes of the bias of `length` tokens."""
        weight = self.table.weight
        return weight.shape[1] * length * round_up(length) * weight.element_size()

    def classes_within(self, length: int) -> Tensor:
        """Return the class of each distance, key minus query, within `length` tokens, int64 [2L - 1].

        Cut out of those of the longest sequence so far: the host would wait for the device at each copy.
        """
        device = self.table.weight.device
        if len(self.classes) < 2 * length - 1 or self.classes.device != device:
            # Not in inference mode: gradients could not go through them later.
            with torch.inference_mode(False):
                self.classes = self.buckets(torch.arange(1 - length, length, device="cpu")).to(device)
        middle = len(self.classes) // 2
        return self.classes[middle + 1 - length : middle + length]

    def buckets(self, distances: Tensor) -> Tensor:
        """Return the class of each distance: exact ones for short distances, then wider and wider ones.

        On the CPU always: whether a distance on a boundary belongs to one class or the next is a matter of rounding.
        """
        count = self.table.num_embeddings // (1 if self.causal else 2)
        exact = count // 2
        steps = distances.clamp(max=0).abs() if self.causal else distances.abs()
        wide = torch.log(steps.clamp(min=1).float() / exact) / math.log(self.max_distance / exact) * (count - exact)
        classes = torch.where(steps < exact, steps, (exact + wide.long()).clamp(max=count - 1))
        return classes if self.causal else classes + count * (distances > 0)


def round_up(length: int) -> int:
    """Return the elements that a row of the bias takes in memory."""
    return -(-length // ALIGNMENT) * ALIGNMENT


class T5Sublayers(nn.Module):
    """Self-attention and feed-forward part of a layer, without biases and without attention scaling."""

    def __init__(
        self, dimension: int, heads: int, head: int, feed_forward: int, eps: float, activation: str, gated: bool
    ) -> None:
        super().__init__()
        self.heads, self.gated = heads, gated
        self.attention_norm = nn.RMSNorm(dimension, eps)
        self.qkv = nn.Linear(dimension, 3 * heads * head, bias=False)
        self.attention_out = nn.Linear(heads * head, dimension, bias=False)
        self.mlp_norm = nn.RMSNorm(dimension, eps)
        self.mlp_in = nn.Linear(dimension, (1 + gated) * feed_forward, bias=False)
        self.mlp_out = nn.Linear(feed_forward, dimension, bias=False)
        self.activation = ACTIVATIONS[activation]

    def attend(self, x: Tensor, shapes: Sequence[torch.Size], biases: Sequence[Tensor]) -> Tensor:
        """Return what each token takes from its sequence, [T, H * K]."""
        parts = zip(split(self.project(x), shapes), biases, strict=True)
        return join([attention(*part.unbind(2), bias=bias, scale=1.0) for part, bias in parts])

    def project(self, x: Tensor) -> Tensor:
        """Return queries, keys and values, [T, 3, H, K]."""
        return self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))

    def feed_forward(self, x: Tensor) -> Tensor:
        """Map hidden states [T, D] to hidden states [T, D]."""
        return x + self.mlp_out(self.activate(self.mlp_in(self.mlp_norm(x))))

    def activate(self, x: Tensor) -> Tensor:
        """Map [T, F], or [T, 2F] where gated, to [T, F]."""
        if not self.gated:
            return self.activation(x)
        half = x.shape[-1] // 2
        return self.activation(x[..., :half]) * x[..., half:]


class T5Layer(T5Sublayers):
    """One layer: ``x += Attention(RMSNorm(x)); x += MLP(RMSNorm(x))``."""

    def forward(self, x: Tensor, shapes: Sequence[torch.Size], biases: Sequence[Tensor]) -> Tensor:
        """Map hidden states [T, D] of groups of these shapes, with biases [1, H, L, L], to hidden states [T, D]."""
        return self.finish(x, self.attend(x, shapes, biases))

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the hidden states [T, D] after the layer, from those before it and the result of attention."""
        return self.feed_forward(x + self.attention_out(attended))


class T5Encoder(StreamEncoder):
    """Encoder whose output equals `transformers.T5EncoderModel` on sequences without padding.

    Parameters
    ----------
    config : mapping
        The fields of a Hugging Face config.json with model_type ``t5``.

    Raises
    ------
    KeyError
        Names a field that is missing.
    ValueError
        Says which field has a value that is not known.

    Notes
    -----
    Relative positions have no end: `max_tokens` is None. The field n_positions of old configurations is a trace of
    how the model was trained, which no version of the class has read.
    """

    max_tokens = None
    # Its residual stream goes beyond the largest half float.
    float16_safe = False

    def __init__(self, config: Mapping) -> None:
        super().__init__()
        self.dimension = config["d_model"]
        self.n_layers = config["num_layers"]
        buckets, max_distance = relative_positions(config)
        self.words = embedding(config["vocab_size"], self.dimension)
        self.bias = RelativeBias(config["num_heads"], buckets, max_distance)
        self.layers = nn.ModuleList(T5Layer(*layer_sizes(config)) for _ in range(self.n_layers))
        self.final_norm = nn.RMSNorm(self.dimension, config["layer_norm_epsilon"])

    def stream(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """As `StreamEncoder.stream`."""
        shapes = [tokens.shape for tokens in groups]
        x = join([self.words(tokens) for tokens in groups])
        biases = [self.bias(length) for _, length in shapes]
        for layer in self.layers:
            x = layer(x, shapes, biases)
        return split(self.final_norm(x), shapes)

    def group_bytes(self, length: int) -> int:
        """As `StreamEncoder.group_bytes`: the bias."""
        return self.bias.bytes_of(length)

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """As `StreamEncoder.tensor_map`, of `transformers.T5EncoderModel`."""
        return TensorMap(
            parts=stack_parts("encoder", config["num_layers"], layer_modules(config, 1)),
            prefix=PREFIX,
            unused=(*UNUSED, r"decoder\..+"),
            layers={"encoder.block": ("num_layers", config["num_layers"])},
            ties={"encoder.embed_tokens.weight": ["shared.weight"]},
        )


# What classes that put a head on the whole model have before its names.
PREFIX = "transformer."
# What they have beside it; tables have several names.
UNUSED = (
    r"(shared|(encoder|decoder)\.embed_tokens|lm_head)\.weight",
    r"classification_head\.(dense|out_proj)\.(weight|bias)",
    r"(classifier|qa_outputs)\.(weight|bias)",
)


def layer_modules(config: Mapping, feed_forward: int) -> dict[str, list[str]]:
    """Return the modules of `T5Layer`, and those of a checkpoint that are stacked to make each.

    `feed_forward` is the number of the feed-forward part among the parts of a layer.
    """
    inner = ("wi_0", "wi_1") if feed_forward_kind(config)[1] else ("wi",)
    return {
        "attention_norm": ["0.layer_norm"],
        "qkv": [f"0.SelfAttention.{part}" for part in "qkv"],
        "attention_out": ["0.SelfAttention.o"],
        "mlp_norm": [f"{feed_forward}.layer_norm"],
        "mlp_in": [f"{feed_forward}.DenseReluDense.{part}" for part in inner],
        "mlp_out": [f"{feed_forward}.DenseReluDense.wo"],
    }


def stack_parts(stack: str, count: int, modules: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return what a checkpoint has for each tensor of its encoder or decoder."""
    parts = {
        "words.weight": [f"{stack}.embed_tokens.weight"],
        "bias.table.weight": [f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"],
        "final_norm.weight": [f"{stack}.final_layer_norm.weight"],
    }
    return parts | {
        f"layers.{i}.{ours}.weight": [f"{stack}.block.{i}.layer.{name}.weight" for name in theirs]
        for i in range(count)
        for ours, theirs in modules.items()
    }


def layer_sizes(config: Mapping) -> tuple:
    """Return the arguments of a layer.

    Raises
    ------
    KeyError, ValueError
        As `T5Encoder`.
    """
    sizes = (config[field] for field in ("d_model", "num_heads", "d_kv", "d_ff", "layer_norm_epsilon"))
    return (*sizes, *feed_forward_kind(config))


def relative_positions(config: Mapping) -> tuple[int, int]:
    """Return the number of distance classes, and the distance from which on all are one class.

    Raises
    ------
    KeyError, ValueError
        As `T5Encoder`.
    """
    buckets = config["relative_attention_num_buckets"]
    max_distance = config.get("relative_attention_max_distance", MAX_DISTANCE)
    if buckets < 4:
        raise ValueError(f"relative_attention_num_buckets is {buckets}; expected 4 or more")
    if max_distance <= buckets // 4:
        raise ValueError(
            f"relative_attention_max_distance is {max_distance}; expected more than a quarter of "
            f"relative_attention_num_buckets, {buckets}"
        )
    return buckets, max_distance


def feed_forward_kind(config: Mapping) -> tuple[str, bool]:
    """Return the activation and whether it is gated; dense_act_fn and is_gated_act rule, as in Hugging Face.

    Raises
    ------
    ValueError
        As `T5Encoder`.
    """
    kind = config.get("feed_forward_proj", "relu")
    activation = config.get("dense_act_fn", "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-"))
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"feed_forward_proj is {quote_value(kind)} with activation {quote_value(activation)}; expected one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    return activation, config.get("is_gated_act", kind.startswith("gated-"))
