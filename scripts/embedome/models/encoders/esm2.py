"""Pre-LN encoder with rotary positions: ESM-2.

Shapes: B sequences, L tokens, T tokens of all groups (`stream`), D model dimension, H heads, F feed-forward dimension,
R rotated pairs, D / H / 2.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedome.models.encoders.grouped import StreamEncoder, attention, join, split
from embedome.models.encoders.layers import embedding

# Share of tokens that were hidden in training: 15 % were chosen, and 80 % of these became <mask> (Lin et al. 2023,
# doi:10.1126/science.ade2574). Token dropout zeroed them, so whole sequences are scaled down by what was left.
HIDDEN_IN_TRAINING = 0.15 * 0.8
ROPE_THETA = 10000.0
# Of the Hugging Face class's variants, those that this encoder has not.
UNSUPPORTED = ("emb_layer_norm_before", "is_folding_model", "is_decoder", "add_cross_attention")


class Rotary(nn.Module):
    """Angles of rotary positions (Su et al. 2021, arXiv:2104.09864).

    The frequencies are an extra state rather than a buffer, as they must stay in float32 when the encoder goes to
    bfloat16: there, the angles of distant tokens would be off by whole radians.
    """

    def __init__(self, pairs: int) -> None:
        super().__init__()
        self.frequencies = torch.zeros(pairs)

    def get_extra_state(self) -> Tensor:
        """The frequencies, float32 [R]."""
        return self.frequencies

    def set_extra_state(self, state: Tensor) -> None:
        """Take frequencies [R]."""
        self.frequencies = state.float()

    def forward(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the angles, float32 [L, 1, 2R]."""
        if self.frequencies.device != device:
            # Once: the host would wait for the device at each copy.
            self.frequencies = self.frequencies.to(device)
        positions = torch.arange(length, device=device, dtype=torch.float32)
        angles = torch.outer(positions, self.frequencies).repeat(1, 2)[:, None]
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn the pairs (i, i + R) of [B, L, H, 2R] by the angles; in float32, given back in x's type."""
    front, back = x.float().chunk(2, -1)
    return (x.float() * cosines + torch.cat((-back, front), -1) * sines).to(x.dtype)


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

    def forward(self, x: Tensor, shapes: Sequence[torch.Size], angles: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Map hidden states [T, D] of groups of these shapes, with their cosines and sines, to hidden states [T, D]."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        attended = [self.attend(part, *each) for part, each in zip(split(qkv, shapes), angles, strict=True)]
        x = x + self.attention_out(join(attended))
        return x + self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(x))))

    def attend(self, qkv: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Attention within each sequence of a group, [B, L, 3, H, D/H] to [B, L, D]."""
        query, key, value = qkv.unbind(2)
        return attention(rotate(query, cosines, sines), rotate(key, cosines, sines), value)


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
    them. The configuration says so as ESM-1b's did, whose learned positions begin behind the padding's:
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
        self.rotary = Rotary(self.dimension // heads // 2)
        self.layers = nn.ModuleList(
            ESM2Layer(self.dimension, heads, config["intermediate_size"], config["layer_norm_eps"])
            for _ in range(self.n_layers)
        )
        self.final_norm = nn.LayerNorm(self.dimension, config["layer_norm_eps"])

    def stream(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """As `StreamEncoder.stream`."""
        shapes = [tokens.shape for tokens in groups]
        x = join([self.embed(tokens) for tokens in groups])
        angles = [self.rotary(tokens.shape[1], tokens.device) for tokens in groups]
        for layer in self.layers:
            x = layer(x, shapes, angles)
        return split(self.final_norm(x), shapes)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [B, L, D] of tokens, as in training, where some were hidden: by the share of each sequence."""
        x = self.words(tokens)
        if self.mask is None:
            return x
        hidden = tokens == self.mask
        scale = (1 - HIDDEN_IN_TRAINING) / (1 - hidden.float().mean(1))
        return x.masked_fill(hidden[:, :, None], 0) * scale[:, None, None].to(x.dtype)

    @staticmethod
    def rename(weights: Mapping[str, Tensor], config: Mapping) -> dict[str, Tensor]:
        """Map the tensors of a Hugging Face checkpoint to this module's names.

        Raises
        ------
        KeyError
            Names a tensor that is missing.
        """
        prefix = "esm." if any(name.startswith("esm.") for name in weights) else ""

        def take(name: str) -> Tensor:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            # transformers 5.23 saves LayerNorms under the names that TensorFlow gave them.
            return weights[prefix + (old if prefix + old in weights else name)]

        renamed = {
            "words.weight": take("embeddings.word_embeddings.weight"),
            "rotary._extra_state": rotary_frequencies(weights, config),
        }
        for kind in ("weight", "bias"):
            renamed[f"final_norm.{kind}"] = take(f"encoder.emb_layer_norm_after.{kind}")
            for i in range(config["num_hidden_layers"]):
                old, new = f"encoder.layer.{i}.", f"layers.{i}."
                qkv = [take(f"{old}attention.self.{part}.{kind}") for part in ("query", "key", "value")]
                renamed[f"{new}qkv.{kind}"] = torch.cat(qkv)
                for ours, theirs in LAYER_NAMES.items():
                    renamed[f"{new}{ours}.{kind}"] = take(f"{old}{theirs}.{kind}")
        return renamed


def check_supported(config: Mapping) -> None:
    """Refuse what `transformers.EsmModel` can be beside ESM-2.

    Raises
    ------
    KeyError, ValueError
        As `ESM2Encoder`.
    """
    positions, activation = config["position_embedding_type"], config.get("hidden_act", "gelu")
    if positions != "rotary":
        raise ValueError(f"position_embedding_type is {positions!r}; expected 'rotary', as ESM-2 has it")
    if activation != "gelu":
        raise ValueError(f"hidden_act is {activation!r}; expected 'gelu', the only one of EsmModel")
    for field in UNSUPPORTED:
        if config.get(field):
            raise ValueError(f"{field} is {config[field]!r}; expected false, as ESM-2 has it")
    if config["hidden_size"] % (2 * config["num_attention_heads"]):
        raise ValueError(
            f"hidden_size is {config['hidden_size']}; expected a multiple of twice num_attention_heads, "
            f"{config['num_attention_heads']}"
        )


def rotary_frequencies(weights: Mapping[str, Tensor], config: Mapping) -> Tensor:
    """The frequencies of a checkpoint, whatever a release of transformers called them, or else the published ones."""
    saved = sorted(name for name in weights if name.endswith("rotary_embeddings.inv_freq"))
    if saved:
        return weights[saved[0]]
    head = config["hidden_size"] // config["num_attention_heads"]
    return 1.0 / config.get("rope_theta", ROPE_THETA) ** (torch.arange(0, head, 2, dtype=torch.float32) / head)


LAYER_NAMES = {
    "attention_norm": "attention.LayerNorm",
    "attention_out": "attention.output.dense",
    "mlp_norm": "LayerNorm",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
}
