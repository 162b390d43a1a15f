"""YAML whose aliases would expand beyond measure."""

from collections.abc import Mapping, Sequence
from typing import Any

from embedome.common.errors import UserError

# Values that aliases may repeat, all in all.
MOST_REPEATED = 10_000


def check_aliases(value: Any, name: str) -> None:
    """Check that aliases repeat no more than a few thousand values, and that none stands within itself.

    Parameters
    ----------
    value : object
        What was read, where an alias is one object in several places; or a node of PyYAML.
    name : str
        What the error calls it.

    Raises
    ------
    UserError
        Says how large it would be.
    """
    counts = NodeCounts()
    try:
        expanded = counts.count_expanded(value)
    except RecursionError:
        raise UserError(f"{name}: nested too deeply, or an alias stands within itself") from None
    if expanded - counts.written > MOST_REPEATED:
        raise UserError(f"{name}: its aliases expand to {float(expanded):.2g} values; expected some thousand at most")


class NodeCounts:
    """Values of a document counted, as written and with each alias expanded."""

    def __init__(self) -> None:
        self.written = 1
        self.sizes: dict[int, int | None] = {}
        """Of each list and mapping, by its identity; None while it is counted."""

    def count_expanded(self, value: Any) -> int:
        """Count the values with each alias expanded; each object is counted once.

        Raises
        ------
        RecursionError
            Where an object is within itself, or objects are nested too deeply.
        """
        if not (inner := children(value)):
            return 1
        if id(value) not in self.sizes:
            self.written += len(inner)
            self.sizes[id(value)] = None
            self.sizes[id(value)] = 1 + sum(map(self.count_expanded, inner))
        size = self.sizes[id(value)]
        if size is None:
            raise RecursionError
        return size


def children(value: Any) -> Sequence[Any]:
    """Return what is directly within a value or a node."""
    inner = getattr(value, "value", value)
    if isinstance(inner, Mapping):
        return list(inner.values())
    return inner if isinstance(inner, list | tuple) else ()
