"""Low-rank adapters on an encoder (LoRA): matrices A and B beside its linear layers, whose own weights stay.

``W x`` becomes ``W x + alpha / r B A x`` (Hu et al. 2022, arXiv:2106.09685). embedome's encoders compute queries, keys
and values by one matrix; what is added to a part of it is added to its rows.
Shapes: T tokens, K inputs, N outputs of a linear layer, of which each of P parts has N / P; r rank.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from embedome.common.errors import UserError
from embedome.models.adapters import AdapterSettings, LowRank
from embedome.models.encoders.grouped import StreamEncoder

# Last names of the modules that make queries and values in all classes that embedome has an encoder for: the targets
# of protbench, examples/config/config.yaml (q, v).
TARGETS = ("query", "value", "q", "v", "q_proj", "v_proj")
# Of the same file: r 16, lora_alpha 16, lora_dropout 0.1, bias none.
PROTBENCH = AdapterSettings(rank=16, alpha=16, dropout=0.1)
# That 16 random bits have.
RANDOM_VALUES = 2**16


class Half(nn.Module):
    """A and B of one matrix: A random, B zero, so that training begins with the base model, as peft has it."""

    def __init__(self, inputs: int, outputs: int, settings: AdapterSettings) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(settings.rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, settings.rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))


class AdaptedLinear(nn.Module):
    """A linear layer and what is added to some of its parts.

    Parameters
    ----------
    base : torch.nn.Linear
    parts : int
        P.
    halves : mapping of int to Half
        By the number of the part.
    settings : AdapterSettings
    """

    def __init__(self, base: nn.Linear, parts: int, halves: Mapping[int, Half], settings: AdapterSettings) -> None:
        super().__init__()
        self.base, self.parts, self.settings = base, parts, settings
        self.places, self.halves = list(halves), list(halves.values())

    def forward(self, x: Tensor) -> Tensor:
        """Map [T, K] to [T, N]."""
        # The halves are switched to training; the encoder, which may have dropout of its own, is not.
        dropout = self.settings.dropout if self.halves[0].training else 0.0
        first: list[Tensor] = [half.a for half in self.halves]
        second = [half.b for half in self.halves]
        scale = self.settings.alpha / self.settings.rank
        if x.device.type == "cpu":
            found: Tensor = AdaptedProduct.apply(
                x, self.base.weight, self.base.bias, scale, dropout, self.places, *first, *second
            )
            return found
        inner = functional.linear(functional.dropout(x, dropout), torch.cat(first))
        return self.base(x) + functional.linear(inner, self.spread())

    def spread(self) -> Tensor:
        """Return scaled B of all parts as one matrix [N, n r], zero in the rows of other parts."""
        rows = self.base.out_features // self.parts
        columns = [
            functional.pad(half.b, (0, 0, place * rows, (self.parts - 1 - place) * rows))
            for place, half in zip(self.places, self.halves, strict=True)
        ]
        return self.settings.alpha / self.settings.rank * torch.cat(columns, 1)


class AdaptedProduct(torch.autograd.Function):
    """`AdaptedLinear` on a CPU, of frozen weights: adapters are added in place, to the outputs of their parts alone.

    The same operations as a graph of torch's own take a third longer, a twentieth of a step at width 128.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
        dropout: float,
        places: Sequence[int],
        *halves: Tensor,
    ) -> Tensor:
        """Map [T, K] to [T, N], given A [r, K] of all adapted parts, and then their B [N / P, r]."""
        first, second = torch.cat(halves[: len(places)]), halves[len(places) :]
        kept = draw_kept(x, dropout) if dropout else None
        dropped = x if kept is None else x * kept
        inner = functional.linear(dropped, first * scale)
        found = functional.linear(x, weight, bias)
        for place, own, b in zip(places, inner.chunk(len(places), 1), second, strict=True):
            view_part(found, place, b).addmm_(own, b.T)
        ctx.save_for_backward(weight, kept, dropped, inner, first, *second)
        ctx.scale, ctx.places = scale, places
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and B."""
        weight, kept, dropped, inner, first, *second = ctx.saved_tensors
        parts = [view_part(gradient, place, b) for place, b in zip(ctx.places, second, strict=True)]
        of_b = [part.T @ own for part, own in zip(parts, inner.chunk(len(parts), 1), strict=True)]
        of_inner = torch.cat([part @ b for part, b in zip(parts, second, strict=True)], 1).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = of_inner @ first
            of_x = (of_x if kept is None else of_x.mul_(kept)).addmm_(gradient, weight)
        of_a = (of_inner.T @ dropped).chunk(len(parts))
        return of_x, None, None, None, None, None, *of_a, *of_b


def view_part(values: Tensor, place: int, b: Tensor) -> Tensor:
    """Return the part [T, N / P] of values [T, N] that a B [N / P, r] is added to, as a view."""
    return values[:, place * len(b) : (place + 1) * len(b)]


def draw_kept(x: Tensor, dropout: float) -> Tensor:
    """Return random factors of the values of `x`: 0 where they are dropped, and else what leaves the mean as it is.

    16 random bits decide, so the probability is a multiple of 2^-16; torch's own dropout takes four times as long.
    """
    limit = min(round(dropout * RANDOM_VALUES), RANDOM_VALUES - 1)
    drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = drawn[: x.numel()].view(x.shape) >= limit - RANDOM_VALUES // 2
    return kept.to(x.dtype).mul_(RANDOM_VALUES / (RANDOM_VALUES - limit))


def find_targets(encoder: StreamEncoder, config: Mapping[str, Any], targets: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the linear layers that are adapted, by name, and the names of all their parts in the class without a head.

    Parameters
    ----------
    encoder : StreamEncoder
    config : mapping
        config.json.
    targets : tuple of str
        Last names of modules; empty for `TARGETS`.

    Raises
    ------
    UserError
        Where there is none; lists the names that there are.
    """
    linears = {name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)}
    parts = {
        name.removesuffix(".weight"): [part.removesuffix(".weight") for part in names]
        for name, names in encoder.tensor_map(config).parts.items()
        if name.endswith(".weight") and name.removesuffix(".weight") in linears
    }
    wanted = targets or TARGETS
    found = {name: names for name, names in parts.items() if any(last(each) in wanted for each in names)}
    known = sorted({last(each) for names in parts.values() for each in names})
    unknown = [each for each in targets if each not in known]
    if unknown or not found:
        raise UserError(
            f"--targets: the model has no linear layer {', '.join(unknown or wanted)}; expected of {', '.join(known)}"
        )
    return found


def adapt(
    encoder: StreamEncoder, config: Mapping[str, Any], settings: AdapterSettings, targets: tuple[str, ...] = ()
) -> dict[str, Half]:
    """Put adapters on an encoder, whose own weights are frozen; return them by the names of what they adapt.

    They are no modules of the encoder: whoever trains them registers them.

    Parameters
    ----------
    encoder : StreamEncoder
        Is changed.
    config, settings, targets
        As of `find_targets` and `AdaptedLinear`.

    Raises
    ------
    UserError
        As `find_targets`.
    """
    encoder.requires_grad_(False)
    found: dict[str, Half] = {}
    wanted = targets or TARGETS
    for name, parts in find_targets(encoder, config, targets).items():
        linear = encoder.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        rows = linear.out_features // len(parts)
        halves = {
            place: Half(linear.in_features, rows, settings) for place, part in enumerate(parts) if last(part) in wanted
        }
        parent, _, own = name.rpartition(".")
        setattr(encoder.get_submodule(parent), own, AdaptedLinear(linear, len(parts), halves, settings))
        found |= {parts[place]: half for place, half in halves.items()}
    return found


def matrices_of(adapters: Mapping[str, Half], settings: AdapterSettings) -> dict[str, LowRank]:
    """Return adapters as they are written."""
    scale = settings.alpha / settings.rank
    return {name: LowRank(half.a.detach().cpu(), half.b.detach().cpu(), scale) for name, half in adapters.items()}


def last(name: str) -> str:
    """Return the last of the names that dots join."""
    return name.rpartition(".")[2]
