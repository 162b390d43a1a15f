"""Pre-LN encoder with rotary positions: ESM-2.

Shapes: B sequences, L tokens, T tokens of all groups (`stream`), D model dimension, H heads, F feed-forward dimension,
R rotated pairs, D / H / 2.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedome.common.errors import quote_value
from embedome.models.encoders.grouped import StreamEncoder, attention, join, split
from embedome.models.encoders.layers import embedding
from embedome.models.tensors import LAYER_NORMS, TensorMap

# Share of tokens that were hidden in training: 15 % were chosen, and 80 % of these became <mask> (Lin et al. 2023,
# doi:10.1126/science.ade2574). Token dropout zeroed them, so whole sequences are scaled down by what was left.
HIDDEN_IN_TRAINING = 0.15 * 0.8
ROPE_THETA = 10000.0
# Variants of the Hugging Face class that this encoder does not have.
UNSUPPORTED = ("emb_layer_norm_before", "is_folding_model", "is_decoder", "add_cross_attention")


class Rotary(nn.Module):
    """Angles of rotary positions (Su et al. 2021, arXiv:2104.09864).

    The frequencies are an extra state rather than a buffer, as they must stay in float32 when the encoder goes to
    bfloat16: there, the angles of distant tokens would be off by whole radians. Those of a checkpoint take the place of
    the published ones, as in Hugging Face: they may have been rounded in training.
    """

    def __init__(self, pairs: int, theta: float = ROPE_THETA) -> None:
        super().__init__()
        # Never on the meta device: a checkpoint may have none.
        self.frequencies = 1.0 / theta ** (
            torch.arange(0, 2 * pairs, 2, dtype=torch.float32, device="cpu") / (2 * pairs)
        )

    def get_extra_state(self) -> Tensor:
        """Return the frequencies, float32 [R]."""
        return self.frequencies

    def set_extra_state(self, state: Tensor) -> None:
        """Take frequencies [R]."""
        self.frequencies = state.float()

    def forward(self, shapes: Sequence[torch.Size], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of the angles of all tokens of groups of these shapes, float32 [T, 1, 1, R]."""
        if self.frequencies.device != device:
            # Once: the host would wait for the device at each copy.
            self.frequencies = self.frequencies.to(device)
        positions = torch.arange(max(length for _, length in shapes), device=device, dtype=torch.float32)
        angles = torch.outer(positions, self.frequencies)
        cosines, sines = (
            join([values[:length].expand(count, -1, -1) for count, length in shapes])[:, None, None]
            for values in (angles.cos(), angles.sin())
        )
        return cosines, sines


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn the pairs (i, i + R) of [T, ..., 2R] by the angles, in float32; the result has x's type.

    Passes over x are what it costs on a GPU: three, and one more to narrow the result.
    """
    front, back = x.chunk(2, -1)
    turned = x * torch.cat([cosines, cosines], -1)
    pairs = sines.shape[-1]
    turned.narrow(-1, 0, pairs).addcmul_(back, sines, value=-1)
    turned.narrow(-1, pairs, pairs).addcmul_(front, sines)
    return turned.to(x.dtype)


class ESM2Layer(nn.Module):
    """One layer: ``x += Attention(LN(x)); x += MLP(LN(x))``, queries and keys rotated."""

    def __init__(self, dimension: int, heads: int, feed_forward: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dimension, eps)
        self.qkv = nn.Linear(dimension, 3 * dimension)
        self.attention_out = nn.Linear(dimension, dimension)
        self.mlp_norm = nn.LayerNorm(dimension, eps)
        self.mlp_in = nn.Linear(dimension, feed_forward)
        self.mlp_out = nn.Linear(feed_forward, dimension)

    def forward(self, x: Tensor, shapes: Sequence[torch.Size], cosines: Tensor, sines: Tensor) -> Tensor:
        """Map hidden states [T, D] of groups of these shapes, and the angles of `Rotary`, to hidden states [T, D]."""
        parts = (split(each, shapes) for each in self.project(x, cosines, sines))
        return self.finish(x, join([attention(*each) for each in zip(*parts, strict=True)]))

    def project(self, x: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, rotated, and values, [T, H, D/H] each."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key = rotate(qkv[:, :2], cosines, sines).unbind(1)
        return query, key, qkv[:, 2]

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the hidden states [T, D] after the layer, from those before it and the result of attention."""
        x = x + self.attention_out(attended)
        return x + self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(x))))


class ESM2Encoder(StreamEncoder):
    """Encoder whose output equals `transformers.EsmModel` with rotary positions on sequences without padding.

    Parameters
    ----------
    config : mapping
        The fields of a Hugging Face config.json with model_type ``esm``.

    Raises
    ------
    KeyError
        Names a field that is missing.
    ValueError
        Says which field has a value that is not supported.

    Notes
    -----
    Token dropout zeroes the embedding of ``<mask>`` and scales each sequence by what is left of it, see `embed`.

    Rotary positions have no end, but the model was trained on crops of 1024 tokens, ``<cls>`` and ``<eos>`` among
    them. The configuration says so as ESM-1b's did, whose learned positions begin after the padding's:
    max_position_embeddings 1026 with pad_token_id 1 are 1024 tokens.
    """

    def __init__(self, config: Mapping) -> None:
        super().__init__()
        check_supported(config)
        self.dimension = config["hidden_size"]
        self.n_layers = config["num_hidden_layers"]
        self.max_tokens = config["max_position_embeddings"] - config["pad_token_id"] - 1
        self.mask = config["mask_token_id"] if config["token_dropout"] else None
        heads = config["num_attention_heads"]
        self.words = embedding(config["vocab_size"], self.dimension)
        self.rotary = Rotary(self.dimension // heads // 2, config.get("rope_theta", ROPE_THETA))
        self.layers = nn.ModuleList(
            ESM2Layer(self.dimension, heads, config["intermediate_size"], config["layer_norm_eps"])
            for _ in range(self.n_layers)
        )
        self.final_norm = nn.LayerNorm(self.dimension, config["layer_norm_eps"])

    def stream(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """As `StreamEncoder.stream`."""
        shapes = [tokens.shape for tokens in groups]
        x = join([self.embed(tokens) for tokens in groups])
        cosines, sines = self.rotary(shapes, x.device)
        for layer in self.layers:
            x = layer(x, shapes, cosines, sines)
        return split(self.final_norm(x), shapes)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return embeddings [B, L, D] of tokens, scaled as in training by the share of each sequence not hidden."""
        x = self.words(tokens)
        if self.mask is None:
            return x
        hidden = tokens == self.mask
        scale = (1 - HIDDEN_IN_TRAINING) / (1 - hidden.float().mean(1))
        return x.masked_fill(hidden[:, :, None], 0) * scale[:, None, None].to(x.dtype)

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """As `StreamEncoder.tensor_map`, of `transformers.EsmModel`."""
        count, kinds = config["num_hidden_layers"], ("weight", "bias")
        parts = {
            "words.weight": ["embeddings.word_embeddings.weight"],
            "rotary._extra_state": ["rotary_embeddings.inv_freq"],
        }
        parts |= {f"final_norm.{kind}": [f"encoder.emb_layer_norm_after.{kind}"] for kind in kinds}
        parts |= {
            f"layers.{i}.{ours}.{kind}": [f"encoder.layer.{i}.{name}.{kind}" for name in theirs]
            for i in range(count)
            for ours, theirs in LAYER.items()
            for kind in kinds
        }
        return TensorMap(
            parts,
            prefix="esm.",
            unused=UNUSED,
            layers={"encoder.layer": ("num_hidden_layers", count)},
            renamed=RENAMED,
        )


def check_supported(config: Mapping) -> None:
    """Refuse what `transformers.EsmModel` can be beside ESM-2.

    Raises
    ------
    KeyError, ValueError
        As `ESM2Encoder`.
    """
    positions, activation = config["position_embedding_type"], config.get("hidden_act", "gelu")
    if positions != "rotary":
        raise ValueError(f"position_embedding_type is {quote_value(positions)}; expected 'rotary', as ESM-2 has it")
    if activation != "gelu":
        raise ValueError(f"hidden_act is {quote_value(activation)}; expected 'gelu', the only one of EsmModel")
    for field in UNSUPPORTED:
        if config.get(field):
            raise ValueError(f"{field} is {quote_value(config[field])}; expected false, as ESM-2 has it")
    if config["hidden_size"] % (2 * config["num_attention_heads"]):
        raise ValueError(
            f"hidden_size is {config['hidden_size']}; expected a multiple of twice num_attention_heads, "
            f"{config['num_attention_heads']}"
        )


# A layer's modules, and those of a checkpoint that are stacked to make each.
LAYER = {
    "attention_norm": ["attention.LayerNorm"],
    "qkv": [f"attention.self.{part}" for part in ("query", "key", "value")],
    "attention_out": ["attention.output.dense"],
    "mlp_norm": ["LayerNorm"],
    "mlp_in": ["intermediate.dense"],
    "mlp_out": ["output.dense"],
}
# What the classes have beside the encoder: heads, the pooler, and what models with rotary positions do not use.
UNUSED = (
    r"embeddings\.(position_ids|position_embeddings\.weight)",
    r"pooler\.dense\.(weight|bias)",
    r"contact_head\.regression\.(weight|bias)",
    r"lm_head\.(bias|(dense|layer_norm|decoder)\.(weight|bias))",
    r"classifier\.((dense|out_proj)\.)?(weight|bias)",
)
RENAMED = (
    *LAYER_NORMS,
    # Once each layer had its own; 5.23 saves them with this star.
    (r"^encoder\.layer\.(\d+|\*)\.attention\.self\.rotary_embeddings\.inv_freq$", "rotary_embeddings.inv_freq"),
)
