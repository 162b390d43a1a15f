"""Learning rates by step: cosine with a tail, inverse square root, linear.

Formulas of NeMo's (nemo/core/optim/lr_scheduler.py, 1.11 and 1.20), but for the linear one, which is Hugging Face's.
The first step is 0.
"""

import math
from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Cosine:
    """Linear warm-up, half a cosine down to `lowest`, and as many steps of `tail` at `lowest`.

    Parameters
    ----------
    peak, lowest : float
    warm_up, tail, steps : int
        `steps` are all of them, warm-up and tail among them.

    Notes
    -----
    With a tail, NeMo's warm-up begins at 0: ``peak step / warm_up``. Without one it is
    ``peak (step + 1) / (warm_up + 1)``, and so it is here.
    """

    peak: float
    lowest: float
    warm_up: int
    steps: int
    tail: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step <= self.warm_up and self.tail:
            return self.peak * step / self.warm_up if self.warm_up else self.peak
        if step < self.warm_up:
            return self.peak * (step + 1) / (self.warm_up + 1)
        decay = self.steps - self.warm_up - self.tail
        if step - self.warm_up > decay or decay <= 0:
            return self.lowest
        return self.lowest + (self.peak - self.lowest) * 0.5 * (1 + math.cos(math.pi * (step - self.warm_up) / decay))

    def scaled(self, steps: int) -> "Cosine":
        """Return the same shape over another number of steps."""
        by = steps / self.steps
        return replace(self, warm_up=round(self.warm_up * by), tail=round(self.tail * by), steps=steps)


@dataclass(frozen=True, slots=True)
class WarmedUp:
    """What schedules without a tail have in common.

    Parameters
    ----------
    peak : float
    warm_up, steps : int
    """

    peak: float
    warm_up: int
    steps: int

    def scaled(self, steps: int) -> Self:
        """Return the same shape over another number of steps."""
        return replace(self, warm_up=round(self.warm_up * steps / self.steps), steps=steps)


@dataclass(frozen=True, slots=True)
class InverseSquareRoot(WarmedUp):
    """Linear warm-up ``peak (step + 1) / (warm_up + 1)``, then ``peak sqrt((warm_up + 1) / (step + 1))``.

    After the last step it is 0.
    """

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step > self.steps:
            return 0.0
        if step <= self.warm_up:
            return self.peak * (step + 1) / (self.warm_up + 1)
        return self.peak * math.sqrt((self.warm_up + 1) / (step + 1))


@dataclass(frozen=True, slots=True)
class Linear(WarmedUp):
    """Linear warm-up ``peak step / warm_up``, then down to 0 at `steps`, in a straight line."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step < self.warm_up:
            return self.peak * step / self.warm_up
        return self.peak * max(0.0, (self.steps - step) / max(1, self.steps - self.warm_up))


Schedule = Cosine | InverseSquareRoot | Linear
