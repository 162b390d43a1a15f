"""What training takes of a GPU's memory, by an estimate: what weights leave is for micro-batches."""

import torch
from torch import nn

from embedome.engine.device import TOKEN_BUDGET, unused_memory
from embedome.training.model import TrainedModel

# Of a value in float32.
BYTES = 4
# Of a GPU's free memory, what micro-batches may take, and bytes that a token takes for each layer and dimension: about
# 34 of a layer in bfloat16 (Korthikanti et al. 2022, arXiv:2205.05198), and as many again for what autocast keeps.
MEMORY_SHARE, TOKEN_BYTES = 0.5, 68
# Of the largest layer: its weights, those of the next one, its gradients, and these again while they are averaged.
GATHERED = 4


def token_budget(model: TrainedModel, device: torch.device, shards: int = 0) -> int:
    """Tokens of a micro-batch: on a GPU as many as its memory holds, by an estimate, and not more than is of use."""
    return TOKEN_BUDGET["cpu"] if device.type == "cpu" else fitting_tokens(model, unused_memory(device), shards)


def fitting_tokens(model: TrainedModel, memory: float, shards: int = 0) -> int:
    """Tokens of a micro-batch that a GPU holds in `memory` bytes that are free.

    Parameters
    ----------
    model : TrainedModel
    memory : float
    shards : int
        Ranks over which the model is split, its layers computed again in the backward pass; 0: neither.
    """
    # Gradients and optimisers take three times the weights' memory.
    kept = 3 * BYTES * values_of(model) / max(1, shards) + gathered_bytes(model, shards)
    return max(512, min(TOKEN_BUDGET["cuda"], int(MEMORY_SHARE * (memory - kept) / token_bytes(model, shards))))


def token_bytes(model: TrainedModel, shards: int = 0) -> int:
    """Bytes that a token of a micro-batch keeps for the backward pass, by an estimate; `shards` as above."""
    layers = sum(name.endswith("mlp_norm") for name, _ in model.named_modules())
    # Of layers that are computed again their input, and all of one.
    return (TOKEN_BYTES + BYTES * layers if shards else TOKEN_BYTES * layers) * model.encoder.dimension


def gathered_bytes(model: TrainedModel, shards: int) -> int:
    """Bytes of what is whole for the time of a model that is split: layers, and once what is in no layer."""
    if shards < 2:
        return 0
    layers = [values_of(layer) for layer in model.layers()]
    return GATHERED * BYTES * (max(layers) + values_of(model) - sum(layers))


def values_of(module: nn.Module) -> int:
    """Values of a module's weights, on all ranks together."""
    return sum(parameter.numel() for parameter in module.parameters())
