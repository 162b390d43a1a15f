"""Models that are trained, out of a Hugging Face directory or with random weights, and written as one."""

import copy
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from embedome.models.create import make_config, random_model, save_directory
from embedome.models.directory import open_checkpoint, read_config
from embedome.models.registry import BLENDERBOT, MEGATRON_BERT, T5, find_entry
from embedome.models.tensors import fill, stack_rows
from embedome.training.checkpoints import writing
from embedome.training.model import MaskedModel, PreLNSeq2Seq, TrainedModel
from embedome.training.own_model import check_own_model
from embedome.training.t5_model import T5Seq2Seq

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CLASSES: Mapping[str, Callable[[Mapping, float], TrainedModel]] = {
    MEGATRON_BERT: MaskedModel,
    BLENDERBOT: PreLNSeq2Seq,
    T5: T5Seq2Seq,
}


def empty_model(config: "PreTrainedConfig", dropout: float) -> TrainedModel:
    """Return a model without weights, on torch's meta device."""
    with torch.device("meta"):
        return CLASSES[config.model_type](config.to_dict(), dropout)


def new_model(like: str, config: "PreTrainedConfig", dropout: float) -> TrainedModel:
    """Return a model with the random weights of `embedome models init`, by the seed in what embedome says of it.

    Parameters
    ----------
    like : str
        The registered model whose architecture it has.
    config : transformers.PreTrainedConfig
        As `create.make_config` gives it.
    dropout : float
    """
    model, source = empty_model(config, dropout), random_model(find_entry(like), config).state_dict()
    expected = model.tensor_map(config.to_dict())
    named = {expected.base_name(name): tensor for name, tensor in source.items()}
    filled = {name: stack_rows(named[part] for part in parts) for name, parts in expected.parts.items()}
    model.load_state_dict(filled, assign=True)
    model.settle()
    return model


def whole_model(config: "PreTrainedConfig", weights: Mapping[str, Tensor]) -> TrainedModel:
    """Return a model, without dropout, with weights that have the module's own names."""
    model = empty_model(config, 0.0)
    model.settle()
    model.load_state_dict(weights, assign=True)
    return model


def read_model(directory: str | os.PathLike, config: "PreTrainedConfig", dropout: float) -> TrainedModel:
    """Return a model with the weights of a directory, which has its shape; activation and head may be others.

    Of a larger vocabulary ProtT5nv's takes the first rows, as the card's took those of NeMo's T5.

    Raises
    ------
    UserError
        As `directory.load_model`; names the tensor that does not fit.
    """
    rows, own = config.vocab_size, copy.copy(config)
    if config.model_type == BLENDERBOT:
        own.vocab_size = max(rows, read_config(directory)["vocab_size"])
    model = empty_model(own, dropout)
    fill(model, open_checkpoint(directory, model.tensor_map(own.to_dict())))
    if isinstance(model, PreLNSeq2Seq) and own.vocab_size > rows:
        model.cut_vocabulary(rows)
    model.settle()
    return model


def hugging_face_tensors(model: TrainedModel, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a model's tensors by their names in the Hugging Face class; views."""
    state, expected = model.state_dict(), model.tensor_map(config)
    found = {}
    for own, names in expected.parts.items():
        if own not in state:  # token types, which have become part of the positions
            continue
        for name, part in zip(names, state[own].chunk(len(names)), strict=True):
            found[name if name.startswith(model.unprefixed) else model.prefix + name] = part
    return found | {copy: found[name] for copy, name in model.copies.items()}


def save_model(
    directory: str | os.PathLike, like: str, sizes: Mapping[str, int], model: TrainedModel, about: Mapping[str, Any]
) -> None:
    """Write a model as a Hugging Face directory, whole or not at all.

    Parameters
    ----------
    directory : path
    like : str
        The registered model whose architecture and vocabulary it has.
    sizes : mapping of str to int
        As in `create.make_config`.
    model : TrainedModel
    about : mapping
        What embedome says of it in config.json.

    Raises
    ------
    UserError
        Where there is something at the path that embedome's training did not write.
    """
    config = make_config(like, sizes, about)
    with writing(directory):
        save_directory(directory, like, config, hugging_face_tensors(model, config.to_dict()), check_own_model)
