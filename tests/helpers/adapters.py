"""Adapters made by peft on small models of every architecture."""

from pathlib import Path
from typing import Any

import torch
import transformers
from helpers.saved_models import KINDS, Kind

# Of which there are adapters: each encoder, with and without what a class with a head puts before all names.
NAMES = ("esm", "esm1b, head", "megatron, head", "bert, head", "roberta", "esmc, head", "blenderbot", "t5, whole")
ADAPTED = [KINDS[name] for name in NAMES]


def base_class(kind: Kind, folder: Path) -> Any:
    """The model of a folder in the class without a head, in float32."""
    return getattr(transformers, kind.reference).from_pretrained(folder, dtype=torch.float32).eval()


def peft_adapter(kind: Kind, base: Path, folder: Path, model: Any = None, **options: Any) -> Any:
    """Make and save an adapter whose matrices are all random; gives peft's model."""
    from peft import LoraConfig, get_peft_model

    targets = ["query", "value", "q", "v", "q_proj", "v_proj"]
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": targets, **options})
    adapted = get_peft_model(model or base_class(kind, base), config)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    adapted.save_pretrained(folder)
    return adapted.eval()


def hidden_states(kind: Kind, model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What the class's encoder gives."""
    encoder = model.encoder if kind.name.startswith(("blenderbot", "t5")) else model
    with torch.inference_mode():
        return encoder(tokens).last_hidden_state
