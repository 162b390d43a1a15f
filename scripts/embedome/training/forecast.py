"""What a recipe takes, before anything runs: tokens, operations, device hours, memory of a device, disk.

By arithmetic and by counting the operations of the model without weights; nothing is measured.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from embedome.models.create import make_config
from embedome.training.alphabet import Alphabet
from embedome.training.checkpoints import RESUMABLE
from embedome.training.device_batch import to_device
from embedome.training.memory import BYTES, fitting_tokens, gathered_bytes, token_bytes
from embedome.training.model import TrainedModel
from embedome.training.model_files import empty_model
from embedome.training.objectives import TokenGroup
from embedome.training.optimisers import muon_matrices
from embedome.training.recipes import Adafactor, Muon, Optimiser, Recipe
from embedome.training.run import longest
from embedome.training.utilisation import step_operations

# Sequences whose operations are counted, so that the number of hidden residues is near its mean.
COUNTED = 32


@dataclass(frozen=True, slots=True)
class Devices:
    """What trains.

    Parameters
    ----------
    count : int
    peak : float
        Operations per second of each.
    share : float
        Of the peak, that training reaches.
    memory : float
        Bytes of each.
    shard : bool
        Whether the model is split over them (`settings.PretrainSettings`).
    """

    count: int
    peak: float
    share: float
    memory: float
    shard: bool = False


def plan_pretraining(recipe: Recipe, length: np.ndarray, count: np.ndarray, devices: Devices) -> dict[str, Any]:
    """Predict what a run of a recipe takes.

    Parameters
    ----------
    recipe : Recipe
    length, count : numpy.ndarray, dtype=int64, shape=(k,)
        Residues, and how many sequences of the data set have them.
    devices : Devices

    Returns
    -------
    dict
        Bytes of a device are those of weights, gradients and optimiser, in float32, and an estimate of what a
        micro-batch keeps for its backward pass; of a model that is split the parts of one device, and the layers
        that are whole for the time.
    """
    alphabet, config = Alphabet.of_model(recipe.model), make_config(recipe.model, recipe.sizes, {})
    model = empty_model(config, 0.0).eval()
    residues = longest(recipe, config, alphabet)
    whole = np.minimum(length, residues) + alphabet.n_special
    per_token, per_pair = sequence_operations(model, recipe, alphabet, int(whole.max()))
    sequences, tokens, operations, begin, step_tokens = 0, 0.0, 0.0, 0, 0.0
    for phase in recipe.phases:
        seen = np.minimum(whole, phase.window or whole.max())
        mean, square = (float(np.average(values, weights=count)) for values in (seen, seen.astype(float) ** 2))
        size = phase.sequences or max(1, round((phase.tokens or 0) / mean))
        taken, step_tokens = size * (phase.until - begin), max(step_tokens, size * mean)
        sequences, tokens, begin = sequences + taken, tokens + taken * mean, phase.until
        operations += taken * (per_token * mean + per_pair * square)
    parameters = sum(each.numel() for name, each in model.named_parameters() if "token_types" not in name)
    state, weights = BYTES * state_values(model, recipe.optimiser), BYTES * parameters
    shards = devices.count if devices.shard else 0
    parts, gathered = max(1, shards), gathered_bytes(model, shards)
    micro_batch = round(min(fitting_tokens(model, devices.memory, shards), step_tokens / devices.count))
    hours = operations / (devices.peak * devices.share) / 3600
    return {
        "recipe": recipe.name,
        "parameters": parameters,
        "steps": recipe.steps,
        "sequences": sequences,
        "epochs": sequences / int(count.sum()),
        "tokens": round(tokens),
        "operations": operations,
        "device_hours": hours,
        "devices": devices.count,
        "wall_clock_hours": hours / devices.count,
        "micro_batch_tokens": micro_batch,
        "bytes_of_device": {
            "weights": -(-weights // parts),
            "gradients": -(-weights // parts),
            "optimiser": -(-state // parts),
            **({"gathered": gathered} if gathered else {}),
            "micro_batch": micro_batch * token_bytes(model, shards),
        },
        "bytes_on_disk": {
            "data": int((length * count).sum()) + 8 * (int(count.sum()) + 1),
            "checkpoints": (recipe.average + RESUMABLE) * weights + RESUMABLE * state,
            "model": weights,
        },
    }


def sequence_operations(
    model: TrainedModel, recipe: Recipe, alphabet: Alphabet, longest_tokens: int
) -> tuple[float, float]:
    """Return the operations of training on a sequence, for each of its tokens, and for each pair of tokens.

    Counted at two lengths: all layers but attention take each token by itself.
    """
    lengths = max(2, longest_tokens // 2), max(4, longest_tokens)
    found = [counted_operations(model, recipe, alphabet, each) / each for each in lengths]
    per_pair = (found[1] - found[0]) / (lengths[1] - lengths[0])
    return found[0] - per_pair * lengths[0], per_pair


def counted_operations(model: TrainedModel, recipe: Recipe, alphabet: Alphabet, tokens: int) -> float:
    """Count the operations of training on a sequence of `tokens` tokens, in the mean over hidden residues."""
    rows = np.full((COUNTED, tokens), alphabet.standard[0])
    rows[:, : len(alphabet.first)] = alphabet.first
    rows[:, tokens - len(alphabet.last) :] = alphabet.last
    group = TokenGroup(rows, np.zeros(COUNTED, np.int64), np.arange(COUNTED, dtype=np.uint64))
    hidden = recipe.objective.hide(group, alphabet, tokens)
    return step_operations(model, to_device([hidden], torch.device("meta"))) / COUNTED


def state_values(model: TrainedModel, optimiser: Optimiser) -> int:
    """Count the values that an optimiser keeps."""
    parameters = [each for name, each in model.named_parameters() if "token_types" not in name]
    if isinstance(optimiser, Adafactor):
        return sum(sum(each.shape) if each.ndim > 1 else each.numel() for each in parameters)
    twice = 2 * sum(each.numel() for each in parameters)
    return twice - sum(each.numel() for each in muon_matrices(model)) if isinstance(optimiser, Muon) else twice
