"""Small ESM, BERT and T5 models in which every parameter matters, and the Hugging Face classes to compare them with."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.engine.windows import Sequences
from embedome.models.directory import Model, load_model
from embedome.models.vocabularies import VOCABULARIES, save_tokenizer
from helpers.small_run import random_sequence
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors
from transformers import (
    BertConfig,
    BertModel,
    EsmcConfig,
    EsmcModel,
    EsmConfig,
    EsmcTokenizer,
    EsmModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

# The order of every ESM-2 checkpoint.
ESM2_TOKENS = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
T5_SPECIAL = ["<pad>", "</s>", "<unk>"]
T5_RESIDUES = "ALGVSREDTIPKFQNYMHWC"  # Ankh's order
T5_RARE = "XBOUZ"
ESM2 = {
    "vocab_size": 33,
    "mask_token_id": 32,
    "pad_token_id": 1,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 1026,
    "layer_norm_eps": 1e-5,
    "position_embedding_type": "rotary",
    "emb_layer_norm_before": False,
    "token_dropout": True,
}
ESM1V = {"position_embedding_type": "absolute"}
ESM1B = {**ESM1V, "emb_layer_norm_before": True}
BERT = {
    "vocab_size": 30,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 1026,
    "layer_norm_eps": 1e-12,
}
ROBERTA = {**BERT, "vocab_size": 25, "pad_token_id": 1, "type_vocab_size": 1}
ESMC = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 1024,
}
T5 = {
    "vocab_size": 64,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "relu",
}
FREQUENCIES = "encoder.layer.*.attention.self.rotary_embeddings.inv_freq"


def rough(kind: Callable[..., PreTrainedModel], *arguments: object, **options: object) -> PreTrainedModel:
    """A model in which every parameter is random and matters: norms too, and the relative bias as the scores."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        model = kind(*arguments, **options)
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            parameter += noise if "relative_attention_bias" in name else 0.1 * noise
    return model


def write_vocab_txt(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(ESM2_TOKENS))


def write_prott5_tokenizer(folder: Path, residues: str = T5_RESIDUES + T5_RARE, extra: tuple[str, ...] = ()) -> None:
    """Pieces of residues after a space."""
    pieces = [(token, 0.0) for token in T5_SPECIAL] + [(f"▁{residue}", -2.0) for residue in residues]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=5)
    tokenizer.add_tokens(list(extra), special_tokens=True)
    tokenizer.save_pretrained(folder)


def save_t5_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)


def make_esm2(folder: Path, **changes: object) -> Path:
    rough(EsmModel, EsmConfig(**{**ESM2, **changes}), add_pooling_layer=False).save_pretrained(folder)
    write_vocab_txt(folder)
    return folder


def make_bert(folder: Path, **changes: object) -> Path:
    """By its vocab.txt, as ProtBERT is released."""
    rough(BertModel, BertConfig(**{**BERT, **changes}), add_pooling_layer=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARIES["protbert"].tokens))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    return folder


def make_roberta(folder: Path, **changes: object) -> Path:
    rough(RobertaModel, RobertaConfig(**{**ROBERTA, **changes}), add_pooling_layer=False).save_pretrained(folder)
    save_tokenizer(folder, "sapiens", None)
    return folder


def make_esmc(folder: Path, **changes: object) -> Path:
    """With the files of its own tokenizer class."""
    rough(EsmcModel, EsmcConfig(**{**ESMC, **changes})).save_pretrained(folder)
    EsmcTokenizer().save_pretrained(folder)
    return folder


def make_t5(folder: Path, **changes: object) -> Path:
    rough(T5EncoderModel, T5Config(**{**T5, **changes})).save_pretrained(folder)
    write_prott5_tokenizer(folder)
    return folder


@dataclass(frozen=True)
class Reference:
    """The Hugging Face class in float32 on one sequence at a time, without mask or padding."""

    model: PreTrainedModel
    first: tuple[int, ...]
    last: tuple[int, ...]
    order: list[str]

    @torch.inference_mode()
    def hidden(self, sequence: str) -> np.ndarray:
        """Hidden states of all tokens, float32 [L, D]."""
        ids = [*self.first, *map(self.order.index, sequence), *self.last]
        return self.model(torch.tensor([ids])).last_hidden_state[0].numpy()

    def mean(self, sequence: str) -> np.ndarray:
        start = len(self.first)
        return self.hidden(sequence)[start : start + len(sequence)].astype(np.float64).mean(0)


def esm2_reference(folder: Path) -> Reference:
    model = EsmModel.from_pretrained(folder, add_pooling_layer=False).float().eval()
    return Reference(model, (0,), (2,), ESM2_TOKENS)


def bert_reference(folder: Path) -> Reference:
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).float().eval()
    return Reference(model, (2,), (3,), list(VOCABULARIES["protbert"].tokens))


def roberta_reference(folder: Path) -> Reference:
    model = RobertaModel.from_pretrained(folder, add_pooling_layer=False).float().eval()
    return Reference(model, (0,), (2,), list(VOCABULARIES["sapiens"].tokens))


def esmc_reference(folder: Path) -> Reference:
    return Reference(EsmcModel.from_pretrained(folder).float().eval(), (0,), (2,), ESM2_TOKENS)


def t5_reference(folder: Path) -> Reference:
    model = T5EncoderModel.from_pretrained(folder).float().eval()
    return Reference(model, (), (1,), [*T5_SPECIAL, *T5_RESIDUES, *T5_RARE])


def randoms(seed: int, lengths: list[int]) -> list[str]:
    rng = random.Random(seed)
    return [random_sequence(rng, length) for length in lengths]


def join(sequences: list[str]) -> Sequences:
    return Sequences.join([sequence.encode() for sequence in sequences])


@torch.inference_mode()
def hidden(model: Model, sequences: list[str]) -> np.ndarray:
    residues = np.array([list(sequence.encode()) for sequence in sequences], np.uint8)
    return model.encoder(torch.from_numpy(model.tokenizer.tokens(residues))).numpy()


def tokens(model: Model, text: str) -> list[int]:
    return model.tokenizer.tokens(np.frombuffer(text.encode(), np.uint8)[None])[0].tolist()


def assert_equal_hidden(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


def edit_weights(folder: Path, change: Callable[[dict], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def edit_config(folder: Path, change: Callable[[dict], object]) -> None:
    found = json.loads((folder / "config.json").read_text())
    change(found)
    (folder / "config.json").write_text(json.dumps(found))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as excinfo:
        load_model(folder)
    assert "\n" not in str(excinfo.value)
    return str(excinfo.value)
