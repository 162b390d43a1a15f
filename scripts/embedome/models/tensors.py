"""What each tensor of a checkpoint is: used, known to be left aside, or an error that names it.

That is decided by the headers of a file, before anything is built or read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.errors import UserError, cut
from embedome.models.checkpoint import Weights
from embedome.models.config_fields import SAVE_FLOAT

if TYPE_CHECKING:
    from torch import Tensor, nn

PLAIN_TYPES = ("float64", "float32", "float16", "bfloat16")
# What programs put before all names: DistributedDataParallel, torch.compile, and PEFT, which a merged model may keep.
WRAPPERS = ("module.", "_orig_mod.", "base_model.model.")
LAYER = re.compile(r"(.+?)\.(\d{1,9})\.")
ADAPTER = re.compile(
    r"(^|[._])(lora|loha|hada|lokr|oft|boft|vera|ia3|adapters?|prompt_encoder|prefix_encoder)([._]|$)"
    r"|(^|\.)(base_layer|modules_to_save|original_module)\."
)
QUANTISED = re.compile(
    r"\.(SCB|CB|weight_format|(nested_)?absmax|(nested_)?quant_map|quant_state\..+|qweight|qzeros|scales|g_idx"
    r"|weight_packed|weight_shape|weight_zero_point|(weight|input|output)_scale(_inv)?)$"
)
# What torch's pruning and parametrisations make of a weight.
COMPUTED = re.compile(r"\.(\w+_orig|\w+_mask|weight_g|weight_v)$|\.parametrizations\.")
WRAPPED = re.compile(r"(^|\.)(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
MERGE = "merge it by `embedome models merge-adapter BASE ADAPTER DIR`"
# transformers 5.23 saves LayerNorms of ESM under the names that TensorFlow gave them, and reads them in all models.
LAYER_NORMS = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
NOT_WHOLE = "the file is not whole or of another model"


@dataclass(frozen=True, slots=True)
class TensorMap:
    """How the tensors of a Hugging Face checkpoint become a module's.

    Names are those of the class without a head.

    Parameters
    ----------
    parts : mapping of str to sequence of str
        The module's tensors, and those of the checkpoint that are stacked row by row to make each, all of one shape.
    prefix : str
        What classes with a head put before these names.
    unused : sequence of str
        Regular expressions of the names that the module leaves aside.
    layers : mapping of str to (str, int)
        What is before the number of a layer: the field of config.json that counts them, and its value.
    ties : mapping of str to sequence of str
        What takes the place of a tensor that a checkpoint does not have: the first that it has.
    renamed : sequence of (str, str)
        Regular expressions of names in other releases, and what takes their place.
    """

    parts: Mapping[str, Sequence[str]]
    prefix: str = ""
    unused: Sequence[str] = ()
    layers: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    ties: Mapping[str, Sequence[str]] = field(default_factory=dict)
    renamed: Sequence[tuple[str, str]] = ()

    def base_name(self, name: str) -> str:
        """Return a tensor's name in the class without a head."""
        name = name.removeprefix(self.prefix)
        for pattern, replacement in self.renamed:
            name = re.sub(pattern, replacement, name)
        return name


class Checkpoint:
    """The tensors of a checkpoint by their names in the class without a head.

    Parameters
    ----------
    path : path
        What errors call the checkpoint.
    weights : Weights
    expected : TensorMap

    Raises
    ------
    UserError
        Where layers are missing, or a tensor is neither used nor known to be left aside; says what it probably is.
    """

    def __init__(self, path: Path, weights: Weights, expected: TensorMap) -> None:
        self.path, self.weights, self.expected = path, weights, expected
        wrapper = common_wrapper(list(weights))
        self.owners: dict[str, list[str]] = {}
        """The names of each tensor in the files, which may be several."""
        for name, owner in [*zip(weights, weights, strict=True), *weights.aliases.items()]:
            self.owners.setdefault(expected.base_name(name.removeprefix(wrapper)), []).append(owner)
        self.prefix = expected.prefix if any(each.startswith(wrapper + expected.prefix) for each in weights) else ""
        self.check_names({name for names in expected.parts.values() for name in names})

    def check_names(self, used: Set[str]) -> None:
        """Refuse a checkpoint with tensors of an adapter, without any of the model's, with fewer layers or others."""
        for name in filter(ADAPTER.search, self.owners):
            owner = cut(self.owners[name][0])
            raise UserError(f"{self.path}: {owner} is of an adapter (LoRA), which would not be applied; {MERGE}")
        if not used & self.owners.keys():
            first = cut(next(iter(self.owners), "none"))
            raise UserError(
                f"{self.path}: {sorted(used)[0]} is missing, as is every other tensor looked for; the first there is "
                f"{first}; save what `save_pretrained` of the model itself writes"
            )
        self.check_layers()
        for name, owners in self.owners.items():
            if name not in used and (fault := self.fault(name)):
                raise UserError(f"{self.path}: {cut(owners[0])} {fault}")

    def check_layers(self) -> None:
        """Refuse a checkpoint of fewer layers than config.json says."""
        found = [match.groups() for name in self.owners if (match := LAYER.match(name))]
        for stack, (size, count) in self.expected.layers.items():
            there = {number for name, number in found if name == stack}
            for number in range(count):
                if str(number) not in there:
                    raise UserError(
                        f"{self.path}: {self.prefix}{stack}.{number} is missing, {size} is {count} in config.json; "
                        f"{NOT_WHOLE}"
                    )

    def fault(self, name: str) -> str | None:
        """Say what is wrong with an unused tensor of this name; None if nothing is."""
        if any(re.fullmatch(pattern, name) for pattern in self.expected.unused):
            return None
        if name.endswith("_extra_state") and 0 in self.weights.header(self.owners[name][0]).shape:
            return None
        return self.guess(name)

    def guess(self, name: str) -> str:
        """Say what a tensor that has no place here probably is."""
        layer = LAYER.match(name)
        size, count = self.expected.layers.get(layer[1], ("", 0)) if layer else ("", 0)
        if QUANTISED.search(name):
            return f"is of a quantised model; {SAVE_FLOAT}"
        if layer and size and int(layer[2]) >= count:
            return f"is of layer {int(layer[2]) + 1}, but {size} is {count} in config.json; correct the wrong one"
        if COMPUTED.search(name):
            return "is of a weight that is computed (pruning, weight normalisation); make it permanent and save again"
        if WRAPPED.search(name):
            return "is named by a wrapper around a part of the model (torch.compile, FSDP); save the model inside it"
        return "is no part of this model as config.json has it; it is refused, as vectors without it would be others"

    def find(self, name: str) -> str | None:
        """Return the name under which a tensor is in the files: its own, or that of one it is tied to."""
        return next((each for each in (name, *self.expected.ties.get(name, ())) if each in self.owners), None)

    def check(self, name: str, shape: Sequence[int]) -> None:
        """Check that the checkpoint has a tensor, of this shape and of plain floats.

        Raises
        ------
        UserError
            Names it.
        """
        found = self.find(name)
        if found is None:
            raise UserError(f"{self.path}: {self.prefix}{name} is missing; {NOT_WHOLE}")
        for owner in self.owners[found]:
            header = self.weights.header(owner)
            if header.dtype not in PLAIN_TYPES:
                raise UserError(
                    f"{self.path}: {cut(owner)} is of type {header.dtype}, expected {', '.join(PLAIN_TYPES)}; if the "
                    f"model is quantised, {SAVE_FLOAT}"
                )
            if header.shape != tuple(shape):
                found_shape = cut(str(header.shape))
                raise UserError(
                    f"{self.path}: {cut(owner)} has shape {found_shape}; expected {tuple(shape)} by config.json"
                )

    def read(self, name: str) -> "Tensor":
        """Read a tensor that was checked.

        Raises
        ------
        UserError
            Where it has several names with unlike values, or holds NaN or infinity.
        """
        import torch

        found = self.find(name)
        assert found is not None, f"{name} was not checked"
        first, *others = self.owners[found]
        tensor = self.weights[first]
        if tensor.dtype == torch.float64:
            tensor = tensor.float()  # which may be infinite
        for other in others:
            if (self.weights[first] != self.weights[other]).any():
                raise UserError(f"{self.path}: {cut(first)} and {cut(other)} differ; expected one tensor in both")
        # A finite sum proves that all terms are finite; otherwise check each term, as the sum may have overflowed.
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            raise UserError(f"{self.path}: {cut(first)} holds NaN or infinity; the file is damaged")
        return tensor


def common_wrapper(names: Sequence[str]) -> str:
    """Return what wrappers have put before all names."""
    found = ""
    while names and (wrapper := next((w for w in WRAPPERS if all(n.startswith(found + w) for n in names)), None)):
        found += wrapper
    return found


def stack_rows(tensors: "Iterator[Tensor]") -> "Tensor":
    """Stack tensors row by row in float32; always a copy, as those of a file are mapped into memory."""
    import torch

    first, *others = tensors
    return torch.cat([first, *others]).float() if others else first.to(torch.float32, copy=True)


def fill(module: "nn.Module", checkpoint: Checkpoint) -> None:
    """Fill a module on the meta device with a checkpoint's tensors in float32.

    A tensor that the module has already may be missing.

    Raises
    ------
    UserError
        Names the first tensor that is missing, has another shape, is not of plain floats, or holds NaN or infinity.
    """
    parts = checkpoint.expected.parts
    state = {
        name: tensor
        for name, tensor in module.state_dict().items()
        if tensor.is_meta or any(map(checkpoint.find, parts[name]))
    }
    for name, tensor in state.items():
        for part in parts[name]:
            checkpoint.check(part, (tensor.shape[0] // len(parts[name]), *tensor.shape[1:]))
    module.load_state_dict(
        {name: stack_rows(map(checkpoint.read, parts[name])) for name in state}, strict=False, assign=True
    )
