"""Sapiens' checkpoints, as fairseq saved them: converted to Hugging Face directories of RoBERTa.

References
----------
fairseq (MIT): models/roberta/model.py, modules/transformer_sentence_encoder.py, data/dictionary.py.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedome.common.errors import UserError, cut, quote_value
from embedome.common.json_files import file_sha256
from embedome.common.outputs import check_new_folder
from embedome.models.checkpoint import check_plain_tensors, load_pickle
from embedome.models.create import make_config, save_directory
from embedome.models.foreign_tensors import TensorName, check_names, module, plain_names, to_hugging_face
from embedome.models.registry import SAPIENS_WHEEL, RegisteredModel, find_entry
from embedome.models.vocabularies import VOCABULARIES

SUFFIX = ".pt"
MODELS = ("sapiens-vh", "sapiens-vl")
CHECKPOINTS = "checkpoint_v[hl].pt"
# Of fairseq, beside its checkpoints: the tokens between the four special ones at the beginning and the mask.
DICTIONARY, FIRST_RESIDUE = "dict.txt", 4
ARGUMENTS, STATE = "args", "model"
# What else a run of fairseq's keeps in a checkpoint.
TRAINING = {"optimizer_history", "extra_state", "last_optimizer_state"}
PREFIX = "decoder."
# Its arguments, and the sizes that they are.
SIZES = {
    "encoder_layers": "layers",
    "encoder_embed_dim": "hidden",
    "encoder_attention_heads": "heads",
    "encoder_ffn_embed_dim": "feed_forward",
}
# The modules of a layer.
LAYER = {
    **{f"self_attn.{part[0]}_proj": f"attention.self.{part}" for part in ("query", "key", "value")},
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
TOKEN_TYPES = "roberta.embeddings.token_type_embeddings.weight"


@dataclass(frozen=True, slots=True)
class FairseqModel:
    """A checkpoint that was read and checked."""

    path: Path
    entry: RegisteredModel
    tensors: dict[str, Tensor]
    """By the names of `transformers.RobertaForMaskedLM`."""


def import_sapiens(source: str | os.PathLike, directory: str | os.PathLike) -> list[Path]:
    """Convert one checkpoint, or those of an unpacked wheel, to Hugging Face directories in float32.

    Parameters
    ----------
    source : path
        ``checkpoint_vh.pt`` or ``checkpoint_vl.pt`` with ``dict.txt`` beside it, or a folder that has them, at any
        depth.
    directory : path
        Put in place whole. Of a folder's models each has a directory in it, ``sapiens-vh`` and ``sapiens-vl``.

    Returns
    -------
    list of Path
        The directories written.

    Raises
    ------
    UserError
        Where there is no checkpoint, or one is damaged or unsafe, is of another architecture or vocabulary, or lacks a
        tensor, has one too many, or one of another shape. Nothing is written then.
    """
    source, directory = Path(source), Path(directory)
    if not source.is_dir():
        found = {directory: read_checkpoint(source)}
    else:
        found = {}
        for path in find_checkpoints(source):
            model = read_checkpoint(path)
            if (target := directory / model.entry.name) in found:
                raise UserError(f"{source}: {found[target].path} and {path} are both {model.entry.name}; name one")
            found[target] = model
    for target in found:
        check_new_folder(target)
    for target, model in found.items():
        entry = model.entry
        about = {
            "name": entry.name,
            "trained": True,
            "licence": entry.licence,
            "source": entry.source,
            "checkpoint_sha256": file_sha256(model.path),
        }
        save_directory(target, entry.name, make_config(entry.name, {}, about), model.tensors)
    return list(found)


def find_checkpoints(folder: Path) -> list[Path]:
    """Return Sapiens' checkpoints in a folder and those in it.

    Raises
    ------
    UserError
        Where there is none.
    """
    found = sorted(path for path in folder.rglob(CHECKPOINTS) if path.is_file())
    if not found:
        raise UserError(
            f"{folder}: has no checkpoint_vh.pt or checkpoint_vl.pt; expected the unpacked wheel {SAPIENS_WHEEL}"
        )
    return found


def read_checkpoint(path: Path) -> FairseqModel:
    """Read a checkpoint; only tensors, plain values and the arguments' `argparse.Namespace` are unpickled.

    Raises
    ------
    UserError
        As `import_sapiens`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    state = load_pickle(path, str(path), [argparse.Namespace])
    if not isinstance(state, Mapping) or not {ARGUMENTS, STATE} <= state.keys():
        raise UserError(f"{path}: not a checkpoint of fairseq's, which has {ARGUMENTS} and {STATE}")
    if other := next((key for key in state if key not in {ARGUMENTS, STATE, *TRAINING}), None):
        raise UserError(
            f"{path}: holds {quote_value(other)}; expected {ARGUMENTS}, {STATE}, {', '.join(sorted(TRAINING))}"
        )
    entry = find_model(path, state[ARGUMENTS])
    check_dictionary(path)
    rows = sapiens_rows(entry)
    weights = plain_names(path, check_plain_tensors(state[STATE], f"{path}: {STATE}"), PREFIX)
    check_names(path, entry.name, rows, weights)
    tensors = to_hugging_face(rows, weights, entry.sizes["heads"])
    return FairseqModel(path, entry, {**tensors, TOKEN_TYPES: torch.zeros(1, entry.sizes["hidden"])})


def find_model(path: Path, arguments: Any) -> RegisteredModel:
    """Return the registered model that a run of fairseq's with these arguments made."""
    if not isinstance(arguments, argparse.Namespace):
        raise UserError(f"{path}: {ARGUMENTS} is a {type(arguments).__name__}; expected the arguments of a fairseq run")
    given = vars(arguments)
    # Of token positions; the heavy chains' model has more than the light chains'.
    entries = {entry.residues: entry for entry in map(find_entry, MODELS) if entry.residues}
    longest = given.get("max_positions")
    entry = next((entry for residues, entry in entries.items() if is_value(longest, residues + 2)), None)
    if entry is None:
        expected = " or ".join(f"{residues + 2} ({entry.name})" for residues, entry in entries.items())
        raise UserError(f"{path}: max_positions is {quote_value(longest)}; expected {expected}")
    wanted = {name: entry.sizes[size] for name, size in SIZES.items()}
    for name, value in {"arch": "roberta_small", "activation_fn": "gelu", **wanted}.items():
        if not is_value(given.get(name), value):
            raise UserError(
                f"{path}: {name} is {quote_value(given.get(name))}; expected {value!r}, as {entry.name} has"
            )
    return entry


def is_value(found: Any, expected: object) -> bool:
    """Return whether a value of a file, which may be of any type, is the expected one."""
    return type(found) is type(expected) and found == expected


def check_dictionary(path: Path) -> None:
    """Check that the tokens beside a checkpoint are those of Sapiens, in their order."""
    dictionary = path.with_name(DICTIONARY)
    if not dictionary.is_file():
        raise UserError(f"{dictionary}: no such file; it says which residue each row of {path.name} is, put it there")
    lines = dictionary.read_text(encoding="utf-8", errors="replace").splitlines()
    tokens, expected = [line.split(" ")[0] for line in lines], [*VOCABULARIES["sapiens"].tokens[FIRST_RESIDUE:-1]]
    if tokens != expected:
        raise UserError(f"{dictionary}: has the tokens {cut(' '.join(tokens))}; expected {' '.join(expected)}")


def sapiens_rows(entry: RegisteredModel) -> list[TensorName]:
    """List the tensors of a Sapiens; Hugging Face: RobertaForMaskedLM."""
    d, width = entry.sizes["hidden"], entry.sizes["feed_forward"]
    words, encoder, embeddings = entry.config["vocab_size"], "sentence_encoder", "roberta.embeddings"
    positions = entry.config["max_position_embeddings"]
    rows = [
        TensorName(
            f"{encoder}.embed_tokens.weight",
            (f"{embeddings}.word_embeddings.weight",),
            (words, d),
            aliases=("lm_head.weight",),
        ),
        TensorName(f"{encoder}.embed_positions.weight", (f"{embeddings}.position_embeddings.weight",), (positions, d)),
        TensorName("lm_head.bias", ("lm_head.bias",), (words,)),
        *module("lm_head.dense", "lm_head.dense", (d, d)),
        *module("lm_head.layer_norm", "lm_head.layer_norm", (d,)),
        *module(f"{encoder}.emb_layer_norm", f"{embeddings}.LayerNorm", (d,)),
    ]
    shapes = {"fc1": (width, d), "fc2": (d, width)}
    for i in range(entry.sizes["layers"]):
        for theirs, ours in LAYER.items():
            shape = (d,) if theirs.endswith("layer_norm") else shapes.get(theirs, (d, d))
            rows += module(f"{encoder}.layers.{i}.{theirs}", f"roberta.encoder.layer.{i}.{ours}", shape)
    return rows
