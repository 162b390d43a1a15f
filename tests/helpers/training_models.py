"""Small models of the three architectures for training, and the Hugging Face classes beside them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from embedome.models.create import make_config, model_class
from embedome.models.registry import MEGATRON_BERT, find_entry
from embedome.training.alphabet import Alphabet
from embedome.training.device_batch import to_device
from embedome.training.model import TrainedModel
from embedome.training.model_files import new_model
from embedome.training.objectives import IGNORED, Group, MaskedGroup
from embedome.training.recipes import RECIPES
from helpers.stores import random_sequences
from helpers.token_groups import group_of
from torch import Tensor, nn

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
SMALL = {"layers": 2, "hidden": 64, "heads": 4, "feed_forward": 96}
SIZES = {
    "esm1nv": {**SMALL, "positions": 64},
    "prott5nv": {**SMALL, "positions": 64},
    "ankh2-ext2": SMALL,
}
CPU = torch.device("cpu")


def small_model(name: str, dropout: float = 0.0) -> TrainedModel:
    """A model in which every parameter is random and matters."""
    model = new_model(name, make_config(name, SIZES[name], {"seed": 1}), dropout)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def corrupted(name: str, count: int = 9, shortest: int = 1) -> list[Group]:
    """Random sequences with hidden residues, in groups of one length."""
    sequences = [*random_sequences(count, 3, shortest, 50), *random_sequences(3, 4, 30, 30)]
    alphabet, objective = Alphabet.of_model(name), RECIPES[name].objective
    lengths = sorted({len(sequence) for sequence in sequences})
    return [
        objective.hide(group_of([each for each in sequences if len(each) == length], alphabet), alphabet, 60)
        for length in lengths
    ]


def class_of(name: str, folder: Path) -> nn.Module:
    """The Hugging Face class with the weights of a directory, without dropout, trained as the recipe has it."""
    model = model_class(find_entry(name)).from_pretrained(folder, dtype=torch.float32).eval()
    if find_entry(name).model_type == MEGATRON_BERT:
        # The class has one activation for layers and head.
        model.cls.predictions.transform.transform_act_fn = nn.GELU()
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.requires_grad_()
    return model


def padded(arrays: Sequence[np.ndarray], value: int) -> Tensor:
    """Rows of groups, padded to one length."""
    longest = max(array.shape[1] for array in arrays)
    return torch.from_numpy(
        np.concatenate([np.pad(a, ((0, 0), (0, longest - a.shape[1])), constant_values=value) for a in arrays])
    )


def logits_of_class(model: nn.Module, groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """Logits and labels of the Hugging Face class, padded and masked: of all tokens, or of all the decoder's."""
    labels = padded([group.labels for group in groups], IGNORED)
    pad = model.config.pad_token_id
    if isinstance(groups[0], MaskedGroup):
        arrays = [group.tokens for group in groups]
        return model(padded(arrays, pad), attention_mask=attended(arrays)).logits, labels
    arrays = [group.source for group in groups]
    decoder = padded([group.decoder for group in groups], pad)
    found = model(padded(arrays, pad), attention_mask=attended(arrays), decoder_input_ids=decoder)
    return found.logits, labels


def attended(arrays: Sequence[np.ndarray]) -> Tensor:
    """The attention mask of padded rows."""
    return padded([np.ones_like(array) for array in arrays], 0)


def guesses_of_model(model: TrainedModel, groups: Sequence[Group]) -> Tensor:
    """Logits of the training module, of the labels alone."""
    return model.guess(to_device(groups, CPU)).logits
