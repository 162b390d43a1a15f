"""What the tensors of ESM-1nv and ProtT5nv are called in NeMo and in Hugging Face, and how they differ.

References
----------
NeMo 1.11 and 1.20 (Apache-2.0): megatron/{bert_model,language_model,transformer,attention}.py,
token_level_encoder_decoder.py. Attention stacks query, key and value head by head: rows are ordered
[head, part, dimension of the head].
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from embedome.models.foreign_tensors import TensorName, module

ROWS = 128  # of the embedding, in both models


@dataclass(frozen=True, slots=True)
class ArchiveLayout:
    """A model's archive.

    Parameters
    ----------
    like : str
        The registered model.
    prefix : str
        Of all tensors' names.
    rows : callable
        Returns the rows for sizes in the words of `registry.RegisteredModel`.
    """

    like: str
    prefix: str
    rows: Callable[[Mapping[str, int]], list[TensorName]]


def feed_forward(nemo: str, inner: str, outer: str, hidden: int, width: int) -> Iterator[TensorName]:
    """Yield the two matrices of a layer's feed-forward part."""
    yield from module(f"{nemo}.mlp.dense_h_to_4h", inner, (width, hidden), 0)
    yield from module(f"{nemo}.mlp.dense_4h_to_h", outer, (hidden, width), 1)


def esm1nv_rows(sizes: Mapping[str, int]) -> list[TensorName]:
    """List the tensors of ESM-1nv; Hugging Face: MegatronBertForMaskedLM."""
    d = sizes["hidden"]
    words, positions = "language_model.embedding.word_embeddings", "language_model.embedding.position_embeddings"
    rows = [
        TensorName(f"{words}.weight", ("bert.embeddings.word_embeddings.weight",), (ROWS, d), 0, vocabulary=True),
        TensorName(f"{positions}.weight", ("bert.embeddings.position_embeddings.weight",), (sizes["positions"], d)),
        TensorName("lm_head.bias", ("cls.predictions.bias",), (ROWS,), 0, vocabulary=True),
        *module("lm_head.dense", "cls.predictions.transform.dense", (d, d)),
        *module("lm_head.layernorm", "cls.predictions.transform.LayerNorm", (d,)),
        *module("language_model.encoder.final_layernorm", "bert.encoder.ln", (d,)),
    ]
    for i in range(sizes["layers"]):
        nemo, hf = f"language_model.encoder.layers.{i}", f"bert.encoder.layer.{i}"
        stacked = tuple(f"{hf}.attention.self.{part}" for part in ("query", "key", "value"))
        rows += module(f"{nemo}.input_layernorm", f"{hf}.attention.ln", (d,))
        rows += module(f"{nemo}.self_attention.query_key_value", stacked, (3 * d, d), 0)
        rows += module(f"{nemo}.self_attention.dense", f"{hf}.attention.output.dense", (d, d), 1)
        rows += module(f"{nemo}.post_attention_layernorm", f"{hf}.ln", (d,))
        rows += feed_forward(nemo, f"{hf}.intermediate.dense", f"{hf}.output.dense", d, sizes["feed_forward"])
    return rows


def prott5nv_rows(sizes: Mapping[str, int]) -> list[TensorName]:
    """List the tensors of ProtT5nv; Hugging Face: BlenderbotForConditionalGeneration.

    Encoder and decoder share tokens and positions: the archive has both names, Hugging Face two tables of positions.
    """
    d = sizes["hidden"]
    words, positions = "word_embeddings.weight", "position_embeddings.weight"
    rows = [
        TensorName(
            f"encoder_embedding.{words}",
            ("model.shared.weight",),
            (ROWS, d),
            0,
            vocabulary=True,
            aliases=(f"decoder_embedding.{words}",),
        ),
        TensorName(
            f"encoder_embedding.{positions}",
            ("model.encoder.embed_positions.weight",),
            (sizes["positions"], d),
            copies=("model.decoder.embed_positions.weight",),
            aliases=(f"decoder_embedding.{positions}",),
        ),
        TensorName("tokens_head.bias", ("final_logits_bias",), (ROWS,), 0, vocabulary=True),
    ]
    for half, count in (("encoder", sizes["layers"]), ("decoder", sizes["decoder_layers"])):
        nemo, hf = f"enc_dec_model.{half}.model", f"model.{half}"
        rows += module(f"{nemo}.final_layernorm", f"{hf}.layer_norm", (d,))
        for i in range(count):
            rows += prott5nv_layer(f"{nemo}.layers.{i}", f"{hf}.layers.{i}", half, d, sizes["feed_forward"])
    return rows


def prott5nv_layer(nemo: str, hf: str, half: str, d: int, width: int) -> Iterator[TensorName]:
    """Yield a layer of the encoder or decoder; norms are named for what they follow, or for what they precede."""
    stacked = tuple(f"{hf}.self_attn.{part}_proj" for part in "qkv")
    yield from module(f"{nemo}.input_layernorm", f"{hf}.self_attn_layer_norm", (d,))
    yield from module(f"{nemo}.self_attention.query_key_value", stacked, (3 * d, d), 0)
    yield from module(f"{nemo}.self_attention.dense", f"{hf}.self_attn.out_proj", (d, d), 1)
    last = "post_attention_layernorm"
    if half == "decoder":
        stacked = tuple(f"{hf}.encoder_attn.{part}_proj" for part in "kv")
        yield from module(f"{nemo}.post_attention_layernorm", f"{hf}.encoder_attn_layer_norm", (d,))
        yield from module(f"{nemo}.inter_attention.query", f"{hf}.encoder_attn.q_proj", (d, d), 0)
        yield from module(f"{nemo}.inter_attention.key_value", stacked, (2 * d, d), 0)
        yield from module(f"{nemo}.inter_attention.dense", f"{hf}.encoder_attn.out_proj", (d, d), 1)
        last = "post_inter_attention_layernorm"
    yield from module(f"{nemo}.{last}", f"{hf}.final_layer_norm", (d,))
    yield from feed_forward(nemo, f"{hf}.fc1", f"{hf}.fc2", d, width)


LAYOUTS = (
    ArchiveLayout("esm1nv", "model.", esm1nv_rows),
    ArchiveLayout("prott5nv", "enc_dec_model.", prott5nv_rows),
)
