"""One pass of an encoder, which hands over the hidden states of chosen layers.

Shapes: B sequences of a group, L tokens, T tokens of all groups, D dimension.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from embedome.common.errors import UserError
from embedome.models.encoders.grouped import StreamEncoder, split

# Takes the number of a layer, and its hidden states [B, L, D] of each group.
Take = Callable[[int, list[Tensor]], None]


class EncoderPass:
    """Runs an encoder up to the deepest of some layers; hands over the states of each as soon as they are computed.

    So the states of one layer at a time are in memory, however many layers are asked for.

    Parameters
    ----------
    encoder : StreamEncoder
        Is changed: cut after the deepest layer.
    layers : sequence of int
        As `number_layers` takes them.

    Raises
    ------
    UserError
        As `number_layers`.
    """

    def __init__(self, encoder: StreamEncoder, layers: Sequence[int]) -> None:
        self.layers = number_layers(encoder.n_layers, layers)
        self.deepest = max(self.layers)
        self.encoder = cut_layers(encoder, self.deepest)
        self.take_row: Callable[[int, Tensor], None] | None = None
        for layer in self.layers:
            if layer < self.deepest:
                self.watch(layer)

    def watch(self, layer: int) -> None:
        """Have a layer's states handed over: of the embedding, number 0, as the first layer is given them."""

        def before(module: nn.Module, given: tuple[Any, ...]) -> None:
            self.hand_over(layer, given[0])

        def after(module: nn.Module, given: tuple[Any, ...], found: Tensor) -> None:
            self.hand_over(layer, found)

        if layer:
            self.encoder.layers[layer - 1].register_forward_hook(after)
        else:
            self.encoder.layers[0].register_forward_pre_hook(before)

    def hand_over(self, layer: int, row: Tensor) -> None:
        """Hand the states [T, D] of a layer over, if this is a pass of `run`."""
        if self.take_row is not None:
            self.take_row(layer, row)

    def run(self, tokens: Sequence[Tensor], take: Take) -> None:
        """Run groups of token ids [B, L]; call `take` with the states of each layer, ascending.

        Its tensors are views, valid until it returns.
        """
        shapes = [each.shape for each in tokens]
        self.take_row = lambda layer, row: take(layer, split(row, shapes))
        try:
            last = self.encoder.stream(tokens)
        finally:
            self.take_row = None
        take(self.deepest, last)


def number_layers(count: int, layers: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of layers, 0 to `count`, in the order in which they are asked for.

    Parameters
    ----------
    count : int
        Layers of the encoder.
    layers : sequence of int
        0 the embedding, k the k-th layer, -1 the last one, -2 the one before it and so on.

    Raises
    ------
    UserError
        Where there is no such layer, or one is named twice.
    """
    if not layers:
        raise UserError("embed.layer is empty; expected one layer or more")
    for layer in layers:
        if not -count - 1 <= layer <= count:
            raise UserError(
                f"embed.layer is {layer}; expected 0 (the embedding) to {count} (the last layer, -1 for short)"
            )
    numbers = tuple(layer % (count + 1) for layer in layers)
    for place, number in enumerate(numbers):
        if number in numbers[:place]:
            named = ", ".join(map(str, layers))
            raise UserError(
                f"embed.layer is {named}; expected each layer once: {number} is there twice (-1 is {count})"
            )
    return numbers


def cut_layers(encoder: StreamEncoder, layer: int) -> StreamEncoder:
    """Cut an encoder after a layer, 0 to the last, so that its output is that layer's; the final norm is the last's."""
    if layer < encoder.n_layers:
        encoder.layers = encoder.layers[:layer]
        encoder.final_norm = nn.Identity()
    return encoder
