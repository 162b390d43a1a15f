"""Model directories as they are released: made by sentencepiece, transformers and by hand, never by embedome."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

ESM2_TOKENS = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
ESM1NV_RESIDUES = "LASGVERTDIPKNFQYHMCWXBZUO"
T5_RESIDUES = "ALGVSREDTIPKFQNYMHWCXBOUZ"
THREE_DI = "acdefghiklmnpqrstvwy"
# By public accounts, in ProstT5's added_tokens.json.
PROSTT5_ADDED = {letter: 128 + index for index, letter in enumerate(THREE_DI)} | {"<fold2AA>": 148, "<AA2fold>": 149}
NAMES = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
NORMAL, UNKNOWN, CONTROL = 1, 2, 3


# Sizes of a small model, in the words of each config.json.
BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "layer_norm_eps": 1e-5,
}
CONFIGS = {
    "t5": {
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 2,
        "relative_attention_num_buckets": 32,
        "layer_norm_epsilon": 1e-6,
    },
    "megatron-bert": {**BERT, "hidden_act": "gelu"},
    "esm": {**BERT, "position_embedding_type": "rotary", "pad_token_id": 1, "token_dropout": True},
}


def write_config(folder: Path, model_type: str, rows: int) -> None:
    """The config.json of a small model."""
    write_json(folder / "config.json", {"model_type": model_type, "vocab_size": rows, **CONFIGS[model_type]})


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def write_spiece(path: Path, residues: Sequence[str]) -> None:
    """A SentencePiece model of unigrams with T5's special tokens."""
    model = sentencepiece_model.ModelProto()
    special = [("<pad>", CONTROL), ("</s>", CONTROL), ("<unk>", UNKNOWN)]
    for index, (piece, kind) in enumerate([*special, *((residue, NORMAL) for residue in residues)]):
        model.pieces.add(piece=piece, type=kind, score=-2 - index / 8 if kind == NORMAL else 0)
    trainer = model.trainer_spec
    trainer.model_type, trainer.pad_id, trainer.eos_id, trainer.unk_id, trainer.bos_id = 1, 0, 1, 2, -1
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = True
    path.write_bytes(model.SerializeToString())


def sentinels(count: int) -> list[str]:
    return [f"<extra_id_{index}>" for index in range(count)]


def write_t5(
    folder: Path, residues: Sequence[str], extra: int, rows: int, added: Mapping[str, int] | None = None
) -> Path:
    """Spiece.model, and the files that transformers 4 saved beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, "t5", rows)
    write_spiece(folder / "spiece.model", residues)
    about = {**NAMES, "additional_special_tokens": sentinels(extra)}
    write_json(folder / "special_tokens_map.json", about)
    write_json(folder / "tokenizer_config.json", {**about, "extra_ids": extra, "tokenizer_class": "T5Tokenizer"})
    if added:
        write_json(folder / "added_tokens.json", added)
    return folder


def write_prott5(
    folder: Path, residues: str = T5_RESIDUES, rows: int = 128, added: Mapping[str, int] | None = None
) -> Path:
    return write_t5(folder, [f"▁{residue}" for residue in residues], 100, rows, added)


def write_prostt5(folder: Path, residues: str = T5_RESIDUES) -> Path:
    return write_prott5(folder, residues, 150, PROSTT5_ADDED)


def write_ankh(
    folder: Path, residues: str = T5_RESIDUES, rows: int = 144, added: Mapping[str, int] | None = None
) -> Path:
    return write_t5(folder, list(residues), rows - 3 - len(residues) - len(added or ()), rows, added)


def write_ankh3(folder: Path, residues: str = T5_RESIDUES) -> Path:
    """With its task tokens after the sentinels."""
    return write_ankh(folder, residues, 256, {"[NLU]": 254, "[S2S]": 255})


def write_esm1nv(folder: Path, residues: str = ESM1NV_RESIDUES, rows: int = 128) -> Path:
    """A fast tokenizer of single characters, which needs no class of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, "megatron-bert", rows)
    ids = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", "<pad>", "<mask>", *residues])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {**NAMES, "bos_token": "<s>", "mask_token": "<mask>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def write_esm2(folder: Path, tokens: Sequence[str] = ESM2_TOKENS, rows: int = 33) -> Path:
    """As every ESM-2 is."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, "esm", rows)
    (folder / "vocab.txt").write_text("\n".join(tokens))
    names = {
        "cls_token": "<cls>",
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    write_json(folder / "special_tokens_map.json", names)
    write_json(folder / "tokenizer_config.json", {**names, "tokenizer_class": "EsmTokenizer", "model_max_length": 1024})
    return folder


def edit_json(path: Path, **changes: object) -> None:
    """Change fields of a JSON file, or write it."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        content = {}
    write_json(path, {**content, **changes} if isinstance(content, dict) else changes)
