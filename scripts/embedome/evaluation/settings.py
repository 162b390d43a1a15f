"""What is evaluated, and how: methods, layers, heads, seeds, and what is done with long proteins."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from embedome.common.errors import UserError
from embedome.engine.windows import LongPolicy
from embedome.evaluation.head_recipes import check_head, heads_for
from embedome.evaluation.tasks import PROTEIN, Task

FROZEN, LORA, RANDOM, ONE_HOT, COMPOSITION = "frozen", "lora", "random", "one-hot", "composition"
METHODS = (FROZEN, LORA, RANDOM, ONE_HOT, COMPOSITION)
# Those that need a model.
OF_MODEL = (FROZEN, LORA, RANDOM)
# Keys of the configuration's section ``embed`` that an evaluation follows, and in ``evaluate`` its word for all layers.
OF_EMBED = ("dtype", "long_sequences", "overlap", "max_residues")
ALL_LAYERS = "all"


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """What is evaluated.

    Parameters
    ----------
    methods : tuple of str
        Of `METHODS`; empty for all that can be had, but `LORA`, which trains the model.
    heads : tuple of str
        Of `head_recipes.HEADS`; empty for the task's.
    layers : tuple of int
        As in `engine.Engine`; empty for all.
    seeds : int
        Heads that are trained of each, with the seeds 0, 1, ...
    train_proteins : int or None
        Of all that there are, drawn; None for all.
    long_sequences : str
        ``truncate``, ``window`` or ``skip``.
    overlap : int
        Residues that neighbouring windows share.
    max_residues : int or None
        Residues beyond which a protein is long; None: as many as the model's positions hold.
    dtype, device : str
        Of the model; heads are trained in float32 on the same device.
    threads : int
        Of heads on a CPU; results depend on it.
    """

    methods: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    layers: tuple[int, ...] = (-1,)
    seeds: int = 3
    train_proteins: int | None = None
    long_sequences: str = "truncate"
    overlap: int = 0
    max_residues: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("seeds", "train_proteins", "max_residues", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name.replace('_', ' ')}: {value}; expected 1 or more")
        if self.overlap < 0 or (self.overlap and self.long_sequences != "window"):
            raise UserError(f"overlap: {self.overlap}; expected 0 or more, and windows with it")

    @classmethod
    def from_config(
        cls, evaluate: Mapping[str, Any], embed: Mapping[str, Any], *, device: str = "cpu", threads: int = 1
    ) -> "EvaluateSettings":
        """Take the settings from the configuration's sections ``evaluate`` and, of `OF_EMBED`, ``embed``."""
        return cls(
            methods=tuple(evaluate["methods"]),
            heads=tuple(evaluate["heads"]),
            layers=() if evaluate["layers"] == ALL_LAYERS else tuple(evaluate["layers"]),
            seeds=evaluate["seeds"],
            device=device,
            threads=threads,
            **{name: embed[name] for name in OF_EMBED},
        )

    def fitting(self, task: Task) -> "EvaluateSettings":
        """Return the settings with those methods and heads alone that suit a task; one list is for all tasks.

        Raises
        ------
        UserError
            Where none of those that were asked for does.
        """

        def suited(name: str, asked: tuple[str, ...], possible: list[str]) -> tuple[str, ...]:
            found = tuple(each for each in asked if each in possible)
            if asked and not found:
                expected = f"expected for {task.name} one of {', '.join(possible)}"
                raise UserError(f"evaluate.{name} is {', '.join(asked)}; {expected}")
            return found

        return replace(
            self,
            methods=suited("methods", self.methods, possible_methods(task, has_model=True)),
            heads=suited("heads", self.heads, heads_for(task.level, task.kind)),
        )

    @property
    def policy(self) -> LongPolicy:
        """What to do with long proteins."""
        return LongPolicy(self.long_sequences, self.overlap, self.max_residues)

    def methods_for(self, task: Task, has_model: bool) -> tuple[str, ...]:
        """Return the methods of a task, in the order in which they are run.

        Raises
        ------
        UserError
            Where a method that was asked for cannot be had.
        """
        possible = possible_methods(task, has_model)
        for method in self.methods:
            if method not in possible:
                why = "needs a model directory" if method in OF_MODEL else f"says nothing of a single {task.level}"
                raise UserError(f"--method {method} {why}; expected {', '.join(possible)}")
        asked = self.methods or tuple(method for method in possible if method != LORA)
        return tuple(method for method in possible if method in asked)

    def heads_for(self, task: Task) -> tuple[str, ...]:
        """Return the heads of a task.

        Raises
        ------
        UserError
            Where one cannot solve it.
        """
        heads = self.heads or (task.head,)
        for head in heads:
            check_head(head, task.level, task.kind)
        return tuple(dict.fromkeys(heads))


def possible_methods(task: Task, has_model: bool) -> list[str]:
    """List the methods that can be had of a task, in the order in which they are run."""
    return [
        method
        for method in METHODS
        if (has_model or method not in OF_MODEL) and (task.level == PROTEIN or method != COMPOSITION)
    ]
