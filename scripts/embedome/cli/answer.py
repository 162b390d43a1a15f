"""What a command prints in the end: words for people, or one JSON document for programs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from embedome.common.json_files import json_text


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a command, in both forms."""

    data: Any
    lines: Iterable[str]

    def print(self, as_json: bool) -> None:
        """Print it on standard output."""
        if as_json:
            print(json_text(self.data), end="")
            return
        for line in self.lines:
            print(line)


def describe_counts(counts: Mapping[str, Any]) -> str:
    """Return counts by name as words; those of a part of a count follow it in brackets.

    Examples
    --------
    >>> describe_counts({"read": 1200, "rejected": {"empty-sequence": 1, "invalid-residue": 2}})
    '1,200 read, 3 rejected (1 empty-sequence, 2 invalid-residue)'
    """
    return ", ".join(
        f"{count:,} {name}"
        if not isinstance(count, Mapping)
        else f"{sum(count.values()):,} {name}" + (f" ({describe_counts(count)})" if count else "")
        for name, count in counts.items()
    )


def table_lines(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Return rows of name and value as lines, the values one below the other."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {value}".rstrip() for name, value in rows]


def count_files(count: int) -> str:
    """Return a number of files as words.

    Examples
    --------
    >>> count_files(1), count_files(1200)
    ('1 file', '1,200 files')
    """
    return f"{count:,} file{'' if count == 1 else 's'}"
