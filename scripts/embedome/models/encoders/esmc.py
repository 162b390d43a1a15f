"""Pre-LN encoder with rotary positions, norms of queries and keys, and SwiGLU: ESM-C.

Shapes: B sequences, L tokens, T tokens of all groups (`stream`), D model dimension, H heads, F feed-forward dimension.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedome.common.errors import quote_value
from embedome.models.encoders.esm2 import ROPE_THETA, Rotary, rotate
from embedome.models.encoders.grouped import StreamEncoder, attention, join, split
from embedome.models.encoders.layers import embedding
from embedome.models.tensors import TensorMap

EPS = 1e-5
# Both branches of a layer are divided by the root of the layers over this, as in ESM3 (Hayes et al. 2025,
# doi:10.1126/science.ads0018).
UNSCALED_LAYERS = 36


class ESMCLayer(nn.Module):
    """One layer: ``x += Attention(LN(x)) / s; x += MLP(LN(x)) / s``; s is part of the last matrix of each."""

    def __init__(self, dimension: int, heads: int, feed_forward: int, attention_bias: bool, mlp_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dimension, EPS)
        self.qkv = nn.Linear(dimension, 3 * dimension, attention_bias)
        self.query_norm = nn.LayerNorm(dimension, EPS, bias=False)
        self.key_norm = nn.LayerNorm(dimension, EPS, bias=False)
        self.attention_out = nn.Linear(dimension, dimension, attention_bias)
        self.mlp_norm = nn.LayerNorm(dimension, EPS)
        self.mlp_in = nn.Linear(dimension, 2 * feed_forward, mlp_bias)
        self.mlp_out = nn.Linear(feed_forward, dimension, mlp_bias)

    def forward(self, x: Tensor, shapes: Sequence[torch.Size], cosines: Tensor, sines: Tensor) -> Tensor:
        """Map hidden states [T, D] of groups of these shapes, and the angles of `Rotary`, to hidden states [T, D]."""
        parts = (split(each, shapes) for each in self.project(x, cosines, sines))
        return self.finish(x, join([attention(*each) for each in zip(*parts, strict=True)]))

    def project(self, x: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, normed over all heads and rotated, and values, [T, H, D/H] each."""
        query, key, value = self.qkv(self.attention_norm(x)).chunk(3, -1)
        query, key = (
            rotate(each.unflatten(-1, (1, self.heads, -1)), cosines, sines)[:, 0]
            for each in (self.query_norm(query), self.key_norm(key))
        )
        return query, key, value.unflatten(-1, (self.heads, -1))

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the hidden states [T, D] after the layer, from those before it and the result of attention."""
        x = x + self.attention_out(attended)
        gate, up = self.mlp_in(self.mlp_norm(x)).chunk(2, -1)
        return x + self.mlp_out(functional.silu(gate) * up)


class ESMCEncoder(StreamEncoder):
    """Encoder whose output equals `transformers.EsmcModel` on sequences without padding.

    Parameters
    ----------
    config : mapping
        The fields of a Hugging Face config.json with model_type ``esmc``, see `config_fields.complete_fields`.

    Raises
    ------
    KeyError
        Names a field that is missing.
    ValueError
        Says which field has a value that is not supported.

    Notes
    -----
    Rotary positions have no end, but the model was trained on max_position_embeddings tokens, special ones included.
    """

    def __init__(self, config: Mapping) -> None:
        super().__init__()
        theta = check_supported(config)
        self.dimension, self.n_layers = config["hidden_size"], config["num_hidden_layers"]
        self.max_tokens = config["max_position_embeddings"]
        heads = config["num_attention_heads"]
        self.words = embedding(config["vocab_size"], self.dimension)
        self.rotary = Rotary(self.dimension // heads // 2, theta)
        biases = [bool(config.get(field)) for field in BIASES]
        self.layers = nn.ModuleList(
            ESMCLayer(self.dimension, heads, config["intermediate_size"], *biases) for _ in range(self.n_layers)
        )
        self.final_norm = nn.LayerNorm(self.dimension, EPS, bias=False)

    def stream(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """As `StreamEncoder.stream`."""
        shapes = [tokens.shape for tokens in groups]
        x = join([self.words(tokens) for tokens in groups])
        cosines, sines = self.rotary(shapes, x.device)
        for layer in self.layers:
            x = layer(x, shapes, cosines, sines)
        return split(self.final_norm(x), shapes)

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """As `StreamEncoder.tensor_map`, of `transformers.EsmcModel`, or of the layout whose fields are `FUSED`'s.

        The latter has its norms and matrices in one module each, as Transformer Engine names them. The names of the
        library esm, the third layout, are turned into these.
        """
        fused, count = config.keys() >= FUSED, config["num_hidden_layers"]
        stack, layer = ("transformer.blocks", FUSED_LAYER) if fused else ("layers", layer_names(config))
        parts = {
            "words.weight": ["embed.weight" if fused else "embed_tokens.weight"],
            "final_norm.weight": ["transformer.norm.weight" if fused else "norm.weight"],
            # Never in a checkpoint.
            "rotary._extra_state": [],
        }
        parts |= {
            f"layers.{i}.{ours}": [f"{stack}.{i}.{name}" for name in theirs]
            for i in range(count)
            for ours, theirs in layer.items()
        }
        return TensorMap(
            parts,
            prefix="esmc.",
            unused=UNUSED,
            layers={stack: ("n_layers" if fused else "num_hidden_layers", count)},
            renamed=LIBRARY if fused else (),
        )

    def settle(self) -> None:
        """Divide what layers add to the hidden states by their scale."""
        scale = (self.n_layers / UNSCALED_LAYERS) ** 0.5
        with torch.no_grad():
            for layer in self.layers:
                for name in ("attention_out", "mlp_out"):
                    for parameter in layer.get_submodule(name).parameters():
                        parameter.div_(scale)


# The fields of config.json that say that queries, keys and values are one matrix in the checkpoint.
FUSED = {"d_model", "n_heads", "n_layers"}
BIASES = ("attention_bias", "mlp_bias")


def check_supported(config: Mapping) -> float:
    """Refuse what the class, or a config.json, can be beside ESM-C; return the base of the rotary frequencies.

    Raises
    ------
    KeyError, ValueError
        As `ESMCEncoder`.
    """
    dimension, heads = config["hidden_size"], config["num_attention_heads"]
    if dimension % (2 * heads):
        raise ValueError(f"hidden_size is {dimension}; expected a multiple of twice num_attention_heads, {heads}")
    for field, value in (("hidden_act", "silu"), ("num_key_value_heads", heads), ("head_dim", dimension // heads)):
        if config.get(field) not in (None, value):
            raise ValueError(f"{field} is {quote_value(config[field])}; expected {quote_value(value)}, as ESM-C has it")
    for field in BIASES:
        if config.keys() >= FUSED and config.get(field):
            raise ValueError(f"{field} is true, but it is not known where this layout has biases; expected false")
    rotary = config.get("rope_parameters") or {}
    theta = rotary.get("rope_theta", config.get("rope_theta", ROPE_THETA))
    if rotary.get("rope_type", "default") != "default" or type(theta) not in (int, float) or not 0 < theta < 1e300:
        raise ValueError(
            f"rope_parameters is {quote_value(rotary)}; expected rope_type default, and a rope_theta above 0"
        )
    return theta


def layer_names(config: Mapping) -> dict[str, list[str]]:
    """Return the tensors of a layer, and those of `transformers.EsmcModel` that are stacked to make each."""
    names = {f"{ours}.weight": [f"{name}.weight" for name in theirs] for ours, theirs in LAYER.items()}
    with_bias = ["attention_norm", "mlp_norm"]
    with_bias += ["qkv", "attention_out"] if config.get("attention_bias") else []
    with_bias += ["mlp_in", "mlp_out"] if config.get("mlp_bias") else []
    return names | {f"{ours}.bias": [f"{name}.bias" for name in LAYER[ours]] for ours in with_bias}


LAYER = {
    "attention_norm": ["input_layernorm"],
    "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "query_norm": ["self_attn.q_norm"],
    "key_norm": ["self_attn.k_norm"],
    "attention_out": ["self_attn.o_proj"],
    "mlp_norm": ["post_attention_layernorm"],
    "mlp_in": ["mlp.gate_proj", "mlp.up_proj"],
    "mlp_out": ["mlp.down_proj"],
}
FUSED_LAYER = {
    "attention_norm.weight": ["attn.layernorm_qkv.layer_norm_weight"],
    "attention_norm.bias": ["attn.layernorm_qkv.layer_norm_bias"],
    "qkv.weight": ["attn.layernorm_qkv.weight"],
    "query_norm.weight": ["attn.q_ln.weight"],
    "key_norm.weight": ["attn.k_ln.weight"],
    "attention_out.weight": ["attn.out_proj.weight"],
    "mlp_norm.weight": ["ffn.layer_norm_weight"],
    "mlp_norm.bias": ["ffn.layer_norm_bias"],
    "mlp_in.weight": ["ffn.fc1_weight"],
    "mlp_out.weight": ["ffn.fc2_weight"],
}
# The library's modules are sequences: a norm, a matrix, and so on.
LIBRARY = (
    (r"\.layernorm_qkv\.0\.(weight|bias)$", r".layernorm_qkv.layer_norm_\1"),
    (r"\.layernorm_qkv\.1\.weight$", ".layernorm_qkv.weight"),
    (r"\.ffn\.0\.(weight|bias)$", r".ffn.layer_norm_\1"),
    (r"\.ffn\.1\.weight$", ".ffn.fc1_weight"),
    (r"\.ffn\.3\.weight$", ".ffn.fc2_weight"),
)
# What the classes have beside the encoder: heads, and frequencies, which are computed.
UNUSED = (
    r"rotary_emb\.(original_)?inv_freq",
    r"lm_head\.(dense|layer_norm|decoder|0|2|3)\.(weight|bias)",
    r"sequence_head\.(0|2|3)\.(weight|bias)",
    r"classifier\.((dense|out_proj)\.)?(weight|bias)",
    r"score\.(weight|bias)",
)
