"""Which steps there are, in their order, and how long each may take on a GPU. What matters most comes first."""

from typing import NamedTuple


class Step(NamedTuple):
    """A function of a module of this folder, which yields rows."""

    name: str
    module: str
    seconds: int
    """After which it stops after the row it is at. All together are less than `LIMIT_SECONDS`."""


# Of a call in all, which has ten minutes: the rest is for the start and the end.
LIMIT_SECONDS = 580
STEPS = (
    Step("environment", "machine", 10),
    Step("peak", "machine", 12),
    Step("bandwidth", "machine", 8),
    Step("parity", "precision", 55),
    Step("models", "machine", 40),
    Step("syncs", "batches", 12),
    Step("profile", "batches", 20),
    Step("memory", "memory", 12),
    Step("files", "whole_files", 85),
    Step("training", "training", 60),
    Step("cores", "whole_files", 35),
    Step("rotary", "layers", 10),
    Step("gelu", "layers", 5),
    Step("fused", "layers", 30),
    Step("compiled", "layers", 15),
    Step("attention", "attention", 32),
    Step("mixed", "batches", 28),
    Step("exhausted", "memory", 10),
    Step("long", "precision", 12),
    Step("twice", "precision", 8),
    Step("copies", "machine", 5),
    Step("residues", "whole_files", 20),
    Step("devices", "whole_files", 20),
    Step("budgets", "batches", 12),
    Step("float8", "layers", 4),
    Step("hugging_face", "hugging_face", 20),
)
BY_NAME = {step.name: step for step in STEPS}
