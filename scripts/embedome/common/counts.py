"""Counts added up by name, and the check that two counts agree."""

from collections import Counter
from collections.abc import Iterable, Mapping

from embedome.common.errors import UserError


def add_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add counts by name, names in order."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def check_equal(left: str, left_count: int, right: str, right_count: int) -> None:
    """Fail where two counts that must be equal are not."""
    if left_count != right_count:
        raise UserError(
            f"the ledger does not close: {left} {left_count:,}, {right} {right_count:,}; "
            "files of different runs are mixed: rerun the workflow, with --forceall if that does not help"
        )
