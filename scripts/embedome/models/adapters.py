"""Adapters (LoRA) in peft's file form: read and checked, written.

An adapter adds ``scale B A`` to a matrix W [N, K], where A is [r, K] and B [N, r] (Hu et al. 2022, arXiv:2106.09685).
The form is that of peft 0.21: adapter_config.json, and the tensors A and B of each module that is adapted.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedome.common.errors import UserError, cut, quote_value
from embedome.common.json_files import read_json, write_json
from embedome.models.checkpoint import PlainTensors, SafeTensors, Weights, load_plain_tensors
from embedome.models.tensors import PLAIN_TYPES

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WEIGHT_FILES = (WEIGHTS, "adapter_model.bin")
# What peft puts before the names of the class that it wraps.
PREFIX = "base_model.model."
LOW_RANK = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])(\.default)?\.weight")
# Fields that say nothing of what an adapter adds to a model; of any other one the value has to be empty or false.
NEUTRAL = {
    "alora_invocation_tokens",
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
}
# Ways to begin that change the base model, too: the adapter is of another base than the one it names.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
BY_PEFT = "merge it by `AutoPeftModel.from_pretrained(ADAPTER).merge_and_unload()`, of the package peft"


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to one matrix.

    Parameters
    ----------
    a : torch.Tensor, shape=(r, K)
    b : torch.Tensor, shape=(N, r)
    scale : float
    """

    a: "Tensor"
    b: "Tensor"
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix, (N, K)."""
        return self.b.shape[0], self.a.shape[1]

    def product(self) -> "Tensor":
        """Return what is added to the matrix, float32 [N, K]."""
        return self.scale * (self.b.float() @ self.a.float())


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as it is on disk.

    Parameters
    ----------
    matrices : dict of str to LowRank
        By the name of the module in the class that peft wrapped.
    replaced : dict of str to torch.Tensor
        Whole tensors that were trained beside them (peft's modules_to_save), by name.
    """

    matrices: dict[str, LowRank]
    replaced: "dict[str, Tensor]"


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """How an adapter is made.

    Parameters
    ----------
    rank : int
        r.
    alpha : float
        The scale is alpha / r.
    dropout : float
        Of the input of A, while training.
    """

    rank: int
    alpha: float
    dropout: float


def read_adapter(directory: str | os.PathLike) -> Adapter:
    """Read an adapter that peft or `embedome finetune` wrote.

    Raises
    ------
    UserError
        Where a file is missing or damaged, the adapter is no LoRA, or of a kind that adds something else to a matrix
        than ``scale B A``; names the field or the tensor.
    """
    directory = Path(directory)
    config, weights = read_adapter_config(directory), open_adapter_weights(directory)
    halves: dict[str, dict[str, Tensor]] = {}
    replaced = {}
    for name in weights:
        if weights.header(name).dtype not in PLAIN_TYPES:
            raise UserError(f"{directory}: {cut(name)} is of type {weights.header(name).dtype}; save it as floats")
        own = name.removeprefix(PREFIX)
        if found := LOW_RANK.fullmatch(own):
            halves.setdefault(found["module"], {})[found["part"]] = weights[name]
        elif "lora_" in own:
            raise UserError(f"{directory}: {cut(name)} is no matrix A or B of a linear layer; {BY_PEFT}")
        else:
            replaced[own] = weights[name]
    if not halves:
        raise UserError(f"{directory}: no tensor of the adapter is a lora_A or lora_B; is it whole?")
    return Adapter({module: pair_up(directory, module, pair, config) for module, pair in halves.items()}, replaced)


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """Read and check adapter_config.json; raises as `read_adapter`."""
    path = directory / CONFIG
    if not path.is_file():
        raise UserError(f"{directory}: no {CONFIG}; expected a folder that peft's `save_pretrained` wrote")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = quote_value(config.get("peft_type") if isinstance(config, dict) else config)
        raise UserError(f"{path}: peft_type is {kind}; expected 'LORA'")
    for field, value in config.items():
        if field == "bias" and value == "none":
            continue
        if field not in NEUTRAL and value:
            raise UserError(f"{path}: {cut(field)} is {quote_value(value)}, which embedome does not merge; {BY_PEFT}")
    if str(config.get("init_lora_weights")).startswith(CHANGES_BASE):
        raise UserError(f"{path}: init_lora_weights is {config['init_lora_weights']!r}, of a changed base; {BY_PEFT}")
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise UserError(f"{path}: lora_alpha is {quote_value(alpha)}; expected a number")
    return config


def open_adapter_weights(directory: Path) -> Weights:
    """Open an adapter's tensors; raises as `read_adapter`."""
    path = next((directory / name for name in WEIGHT_FILES if (directory / name).is_file()), None)
    if path is None:
        raise UserError(f"{directory}: no {' or '.join(WEIGHT_FILES)}; copy the adapter again")
    return SafeTensors(path) if path.name == WEIGHTS else PlainTensors(load_plain_tensors(path))


def pair_up(directory: Path, module: str, pair: "Mapping[str, Tensor]", config: Mapping[str, Any]) -> LowRank:
    """Return what is added to a module's matrix; raises as `read_adapter`."""
    for part in "AB":
        if part not in pair:
            raise UserError(f"{directory}: {cut(module)} has no lora_{part}; copy the adapter again")
        if pair[part].ndim != 2:
            raise UserError(f"{directory}: lora_{part} of {cut(module)} is no matrix; {BY_PEFT}")
        if not pair[part].isfinite().all():
            raise UserError(f"{directory}: lora_{part} of {cut(module)} holds NaN or infinity; the file is damaged")
    a, b = pair["A"], pair["B"]
    rank = a.shape[0]
    if b.shape[1] != rank or not rank:
        raise UserError(f"{directory}: lora_A and lora_B of {cut(module)} have ranks {rank} and {b.shape[1]}")
    return LowRank(a, b, config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank))


def write_adapter(
    directory: Path, matrices: Mapping[str, LowRank], settings: AdapterSettings, base: str | os.PathLike
) -> None:
    """Write an adapter into an existing folder, as peft reads it.

    Parameters
    ----------
    directory : Path
    matrices : mapping of str to LowRank
        As `Adapter.matrices`, by names of the class without a head.
    settings : AdapterSettings
    base : path
        Of the model that it belongs to.
    """
    from safetensors.torch import save_file

    tensors = {}
    for module, matrix in matrices.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = matrix.a.detach().float().contiguous()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = matrix.b.detach().float().contiguous()
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": str(base),
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        # By their whole names: a decoder may have modules of the same last names, which are not adapted.
        "target_modules": sorted(matrices),
    }
    write_json(directory / CONFIG, config)
