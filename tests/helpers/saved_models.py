"""Small models of every architecture, saved by transformers, and what their classes give."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from embedome.common.errors import UserError
from embedome.models.architectures import DECODER, ENCODER
from embedome.models.directory import load_model
from embedome.models.vocabularies import save_tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

ESM = {
    "vocab_size": 33,
    "mask_token_id": 32,
    "pad_token_id": 1,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 1026,
    "position_embedding_type": "rotary",
    "emb_layer_norm_before": False,
    "token_dropout": True,
}
ESM1B = {**ESM, "position_embedding_type": "absolute", "emb_layer_norm_before": True}
MEGATRON = {
    "vocab_size": 128,
    "pad_token_id": 3,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "hidden_act": "gelu_pytorch_tanh",
}
BERT = {
    "vocab_size": 30,
    "pad_token_id": 0,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "layer_norm_eps": 1e-12,
}
ROBERTA = {**BERT, "vocab_size": 25, "pad_token_id": 1, "max_position_embeddings": 42, "type_vocab_size": 1}
ESMC = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
BLENDERBOT = {
    "vocab_size": 128,
    "pad_token_id": 3,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 40,
}
T5 = {
    "vocab_size": 128,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
}
GATED = {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


@dataclass(frozen=True)
class Kind:
    """A class of transformers that saves a model, and the one that embedome must equal."""

    name: str
    saved_by: str
    reference: str
    config: Mapping[str, Any]
    vocabulary: str
    features: str = ENCODER
    half: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        Kind("esm", "EsmModel", "EsmModel", ESM, "esm2"),
        Kind("esm, head", "EsmForMaskedLM", "EsmModel", ESM, "esm2", half=True),
        Kind("esm1b, head", "EsmForMaskedLM", "EsmModel", ESM1B, "esm2"),
        Kind("megatron", "MegatronBertModel", "MegatronBertModel", MEGATRON, "esm1nv"),
        Kind("megatron, head", "MegatronBertForMaskedLM", "MegatronBertModel", MEGATRON, "esm1nv"),
        Kind("bert", "BertModel", "BertModel", BERT, "protbert"),
        Kind("bert, head", "BertForMaskedLM", "BertModel", {**BERT, "hidden_act": "gelu_new"}, "protbert"),
        Kind("roberta", "RobertaModel", "RobertaModel", ROBERTA, "sapiens"),
        Kind("roberta, head", "RobertaForMaskedLM", "RobertaModel", ROBERTA, "sapiens", half=True),
        Kind("esmc", "EsmcModel", "EsmcModel", ESMC, "esmc"),
        Kind(
            "esmc, head",
            "EsmcForMaskedLM",
            "EsmcModel",
            {**ESMC, "attention_bias": True, "mlp_bias": True},
            "esmc",
            half=True,
        ),
        Kind("blenderbot", "BlenderbotModel", "BlenderbotModel", BLENDERBOT, "prott5nv"),
        Kind("blenderbot, head", "BlenderbotForConditionalGeneration", "BlenderbotModel", BLENDERBOT, "prott5nv"),
        Kind("t5", "T5EncoderModel", "T5EncoderModel", T5, "prott5"),
        Kind("t5, whole", "T5ForConditionalGeneration", "T5EncoderModel", GATED, "prott5", half=True),
        Kind("t5, decoder", "T5ForConditionalGeneration", "T5Model", T5, "prott5", DECODER),
        Kind("t5, gated decoder", "T5Model", "T5Model", GATED, "prott5", DECODER),
    )
}


def make(kind: Kind, folder: Path) -> Path:
    """A model in which every parameter is random and matters, saved by its class."""
    of_class = getattr(transformers, kind.saved_by)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        model = of_class(of_class.config_class(**kind.config))
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    (model.half() if kind.half else model).save_pretrained(folder)
    save_tokenizer(folder, kind.vocabulary, None)
    if kind.features == ENCODER and kind.saved_by == "T5ForConditionalGeneration":
        as_released(folder)
    return folder


def as_released(folder: Path) -> None:
    """ProtT5's and Ankh's checkpoints have the table under two names, an output matrix, and a bias that is not used."""
    weights = load_file(folder / "model.safetensors")
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"].clone()
    weights["lm_head.weight"] = weights["shared.weight"] + 1
    weights["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(8, 2)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


# What a class may fill by itself: no hidden state depends on it, `shared` is tied to the tables that are used, and
# frequencies are computed.
IDLE = re.compile(r"(^|\.)(pooler|contact_head|shared|final_logits_bias|inv_freq)(\.|$)")


def by_class(kind: Kind, folder: Path, tokens: Tensor) -> Tensor | str:
    """Hidden states of the Hugging Face class, or why it has none: it fails, or fills a gap at random."""
    try:
        model, info = getattr(transformers, kind.reference).from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32, ignore_mismatched_sizes=True
        )
    except Exception as error:  # whatever transformers raises
        return f"the class does not load it: {error}"
    encoder_alone = kind.features == ENCODER and hasattr(model, "decoder")
    gaps = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    idle = {name for name in gaps if IDLE.search(name) or (encoder_alone and name.startswith("decoder."))}
    if gaps - idle:
        return f"the class fills {', '.join(gaps - idle)} at random"
    with torch.inference_mode():
        if kind.features == DECODER:
            return model.eval()(tokens, decoder_input_ids=tokens).last_hidden_state
        return (model.encoder if encoder_alone else model).eval()(tokens).last_hidden_state


def ours(kind: Kind, folder: Path, tokens: Tensor) -> Tensor | str:
    """Embedome's hidden states, or its refusal."""
    try:
        encoder = load_model(folder, kind.features).encoder
    except UserError as error:
        return str(error)
    with torch.inference_mode():
        return encoder(tokens)


def compare(kind: Kind, folder: Path) -> str | None:
    """Check that a directory gives what the class gives, or is refused in one line; gives the refusal."""
    tokens = torch.tensor([[*range(3, 23), 5, 5, 7]])
    found = ours(kind, folder, tokens)
    if isinstance(found, str):
        assert found.isprintable()
        assert len(found) < 600
        return found
    expected = by_class(kind, folder, tokens)
    assert not isinstance(expected, str), expected
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max().clamp(min=1)
    return None
