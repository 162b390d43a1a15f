"""Pre-LN encoder with rotary or learned positions: ESM-2, ESM-1b, ESM-1v.

Shapes: B sequences, L tokens, T tokens of all groups (`stream`), D model dimension, H heads, F feed-forward dimension,
R rotated pairs, D / H / 2.
"""

import re
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
UNSUPPORTED = ("is_folding_model", "is_decoder", "add_cross_attention")
ROTARY, ABSOLUTE = "rotary", "absolute"


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
    """One layer: ``x += Attention(LN(x)); x += MLP(LN(x))``, queries and keys rotated where positions are rotary."""

    def __init__(self, dimension: int, heads: int, feed_forward: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dimension, eps)
        self.qkv = nn.Linear(dimension, 3 * dimension)
        self.attention_out = nn.Linear(dimension, dimension)
        self.mlp_norm = nn.LayerNorm(dimension, eps)
        self.mlp_in = nn.Linear(dimension, feed_forward)
        self.mlp_out = nn.Linear(feed_forward, dimension)

    def forward(self, x: Tensor, shapes: Sequence[torch.Size], *angles: Tensor) -> Tensor:
        """Map hidden states [T, D] of groups of these shapes, and what `Rotary` gives if any, to such [T, D]."""
        parts = (split(each, shapes) for each in self.project(x, *angles))
        return self.finish(x, join([attention(*each) for each in zip(*parts, strict=True)]))

    def project(self, x: Tensor, *angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, rotated by the angles if there are any, and values, [T, H, D/H] each."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key = (rotate(qkv[:, :2], *angles) if angles else qkv[:, :2]).unbind(1)
        return query, key, qkv[:, 2]

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the hidden states [T, D] after the layer, from those before it and the result of attention."""
        x = x + self.attention_out(attended)
        return x + self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(x))))


class ESM2Encoder(StreamEncoder):
    """Encoder whose output equals `transformers.EsmModel` on sequences without padding.

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

    Learned positions begin after the padding's: max_position_embeddings 1026 with pad_token_id 1 are 1024 tokens.
    Rotary positions have no end, but the models were trained on crops of 1024 tokens, ``<cls>`` and ``<eos>`` among
    them, and their configurations say so in the same way.
    """

    def __init__(self, config: Mapping) -> None:
        super().__init__()
        check_supported(config)
        self.dimension = config["hidden_size"]
        self.n_layers = config["num_hidden_layers"]
        self.first_position = config["pad_token_id"] + 1
        self.max_tokens = config["max_position_embeddings"] - self.first_position
        self.mask = config["mask_token_id"] if config["token_dropout"] else None
        heads = config["num_attention_heads"]
        self.words = embedding(config["vocab_size"], self.dimension)
        self.rotary: Rotary | None = None
        self.positions: nn.Embedding | None = None
        if config["position_embedding_type"] == ROTARY:
            self.rotary = Rotary(self.dimension // heads // 2, config.get("rope_theta", ROPE_THETA))
        else:
            self.positions = embedding(config["max_position_embeddings"], self.dimension)
            self.padding = config["pad_token_id"]
        before = config.get("emb_layer_norm_before")
        self.embedding_norm = nn.LayerNorm(self.dimension, config["layer_norm_eps"]) if before else nn.Identity()
        self.layers = nn.ModuleList(
            ESM2Layer(self.dimension, heads, config["intermediate_size"], config["layer_norm_eps"])
            for _ in range(self.n_layers)
        )
        self.final_norm = nn.LayerNorm(self.dimension, config["layer_norm_eps"])

    def stream(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """As `StreamEncoder.stream`."""
        shapes = [tokens.shape for tokens in groups]
        x = join([self.embed(tokens) for tokens in groups])
        angles = () if self.rotary is None else self.rotary(shapes, x.device)
        for layer in self.layers:
            x = layer(x, shapes, *angles)
        return split(self.final_norm(x), shapes)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return embeddings [B, L, D] of tokens, with positions and norm where the model has them.

        Those of tokens are scaled as in training by the share of each sequence not hidden.
        """
        x = self.words(tokens)
        if self.mask is not None:
            hidden = tokens == self.mask
            scale = (1 - HIDDEN_IN_TRAINING) / (1 - hidden.float().mean(1))
            x = x.masked_fill(hidden[:, :, None], 0) * scale[:, None, None].to(x.dtype)
        if self.positions is not None:
            x = x + self.positions.weight[self.first_position : self.first_position + tokens.shape[1]]
        return self.embedding_norm(x)

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """As `StreamEncoder.tensor_map`, of `transformers.EsmModel`."""
        count, kinds = config["num_hidden_layers"], ("weight", "bias")
        absolute = config["position_embedding_type"] == ABSOLUTE
        parts = {"words.weight": ["embeddings.word_embeddings.weight"]}
        parts |= {"positions.weight": [POSITIONS]} if absolute else {"rotary._extra_state": [FREQUENCIES]}
        parts |= {f"final_norm.{kind}": [f"encoder.emb_layer_norm_after.{kind}"] for kind in kinds}
        if config.get("emb_layer_norm_before"):
            parts |= {f"embedding_norm.{kind}": [f"embeddings.layer_norm.{kind}"] for kind in kinds}
        parts |= {
            f"layers.{i}.{ours}.{kind}": [f"encoder.layer.{i}.{name}.{kind}" for name in theirs]
            for i in range(count)
            for ours, theirs in LAYER.items()
            for kind in kinds
        }
        return TensorMap(
            parts,
            prefix="esm.",
            unused=(*UNUSED, re.escape(FREQUENCIES if absolute else POSITIONS)),
            layers={"encoder.layer": ("num_hidden_layers", count)},
            renamed=RENAMED,
        )


def check_supported(config: Mapping) -> None:
    """Refuse what `transformers.EsmModel` can be beside ESM-2, ESM-1b and ESM-1v.

    Raises
    ------
    KeyError, ValueError
        As `ESM2Encoder`.
    """
    positions, activation = config["position_embedding_type"], config.get("hidden_act", "gelu")
    if positions not in (ROTARY, ABSOLUTE):
        raise ValueError(
            f"position_embedding_type is {quote_value(positions)}; expected 'rotary', as ESM-2 has it, or 'absolute'"
        )
    if activation != "gelu":
        raise ValueError(f"hidden_act is {quote_value(activation)}; expected 'gelu', the only one of EsmModel")
    for field in UNSUPPORTED:
        if config.get(field):
            raise ValueError(f"{field} is {quote_value(config[field])}; expected false, as ESM-2 has it")
    heads, rotary = config["num_attention_heads"], positions == ROTARY
    if config["hidden_size"] % ((1 + rotary) * heads):
        multiple = "twice num_attention_heads" if rotary else "num_attention_heads"
        raise ValueError(f"hidden_size is {config['hidden_size']}; expected a multiple of {multiple}, {heads}")


# A layer's modules, and those of a checkpoint that are stacked to make each.
LAYER = {
    "attention_norm": ["attention.LayerNorm"],
    "qkv": [f"attention.self.{part}" for part in ("query", "key", "value")],
    "attention_out": ["attention.output.dense"],
    "mlp_norm": ["LayerNorm"],
    "mlp_in": ["intermediate.dense"],
    "mlp_out": ["output.dense"],
}
# Positions of either kind; what is there of the other is not used.
POSITIONS, FREQUENCIES = "embeddings.position_embeddings.weight", "rotary_embeddings.inv_freq"
# What the classes have beside the encoder: heads and the pooler.
UNUSED = (
    r"embeddings\.position_ids",
    r"pooler\.dense\.(weight|bias)",
    r"contact_head\.regression\.(weight|bias)",
    r"lm_head\.(bias|(dense|layer_norm|decoder)\.(weight|bias))",
    r"classifier\.((dense|out_proj)\.)?(weight|bias)",
)
RENAMED = (
    *LAYER_NORMS,
    # Once each layer had its own; 5.23 saves them with this star.
    (r"^encoder\.layer\.(\d+|\*)\.attention\.self\.rotary_embeddings\.inv_freq$", FREQUENCIES),
)
