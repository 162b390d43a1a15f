"""How a model is trained: a recipe, and what is set otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from embedome.common.errors import UserError
from embedome.training.recipes import Recipe, find_recipe

SIZES = ("layers", "decoder_layers", "hidden", "heads", "feed_forward", "positions")


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """How a model is trained.

    Parameters
    ----------
    name : str
        Of the new model, kept in config.json.
    recipe : str
        Of `recipes.RECIPES`.
    steps, tokens : int or None
        Of the run, and of a step; None: the recipe's.
    sizes : mapping of str to int
        Of the model, where they are not the recipe's; as in `create.make_config`.
    seed : int
        Of weights, order and masks.
    init : str or None
        A model directory, or a NeMo archive, of the same shape to begin with; None: random weights.
    device : str
        ``cpu`` or ``cuda``.
    threads : int or None
        Of each process on a CPU; results depend on it. None: as torch chooses.
    shard : bool
        Whether weights, gradients and optimiser state are split over the ranks, and layers computed again in the
        backward pass.
    """

    name: str
    recipe: str
    steps: int | None = None
    tokens: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    init: str | None = None
    device: str = "cpu"
    threads: int | None = None
    shard: bool = False

    @classmethod
    def from_config(cls, name: str, section: Mapping[str, Any], device: str = "cpu") -> "PretrainSettings":
        """Take the configuration's section ``model.pretrain``, of a model of this name, for a job on this device."""
        values = {key: value for key, value in section.items() if key not in (*SIZES, "nodes", "ranks")}
        sizes = {key: section[key] for key in SIZES if section[key] is not None}
        return cls(name, sizes=sizes, device=device, **values)

    def make_recipe(self) -> Recipe:
        """Return the recipe with what is set otherwise.

        Raises
        ------
        UserError
            Where there is no such recipe, or a number makes no sense.
        """
        recipe = find_recipe(self.recipe)
        for name, value in (("steps", self.steps), ("tokens", self.tokens)):
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}; expected 1 or more")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; expected 0 or more")
        recipe = recipe.scaled(self.steps or recipe.steps)
        if self.tokens:
            recipe = recipe.with_tokens(self.tokens)
        return replace(recipe, sizes={**recipe.sizes, **self.sizes})
