"""Records through a model without padding, in blocks, with results in input order and an account of every record."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from embedome.common.terms import TOO_LONG
from embedome.engine.device import free_memory, is_out_of_memory
from embedome.sequences.dropped_records import write_dropped
from embedome.sequences.records import Record

BLOCK_RECORDS = 2000


def blocks(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of `BLOCK_RECORDS` items, the last one shorter."""
    items = iter(items)
    while block := list(islice(items, BLOCK_RECORDS)):
        yield block


class RecordAccount:
    """What became of the records that were read."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(read=0)
        self.dropped: list[tuple] = []

    def admits(self, record: Record, longest: int | None) -> bool:
        """Count a record, and return whether it fits a model of `longest` residues; if not, it is written down."""
        self.counts["read"] += 1
        return self.fits(record, record, longest)

    def admits_pair(self, pair: tuple[Record, Record], longest: tuple[int | None, int | None]) -> bool:
        """As `admits`, for a source and its target."""
        self.counts["read"] += 1
        return all(self.fits(pair[0], part, limit) for part, limit in zip(pair, longest, strict=True))

    def fits(self, record: Record, part: Record, longest: int | None) -> bool:
        """Return whether a record's part is sound and short enough; if not, the record is written down."""
        if part.reason:
            self.drop("rejected", record, part.reason, part.detail or "")
            return False
        if longest is not None and len(part.sequence) > longest:
            self.skip(record, TOO_LONG)
            return False
        return True

    def skip(self, record: Record, reason: str) -> None:
        """Write down a sound record that the model cannot do."""
        self.drop("skipped", record, reason, "")

    def drop(self, state: str, record: Record, reason: str, detail: str) -> None:
        """Write down a record that is left out."""
        self.counts[reason] += 1
        self.dropped.append((state, record.id, reason, detail, len(record.sequence)))

    def close(self, out: Path) -> dict[str, int]:
        """List what was left out beside the result; return the counts."""
        write_dropped(out, self.dropped)
        return dict(self.counts)


@dataclass
class Batches:
    """Runs items of one shape together.

    Parameters
    ----------
    token_budget : int
        Tokens of a batch at most; halved where they do not fit the device's memory.
    """

    token_budget: int

    def run(
        self,
        items: Sequence[Any],
        shape: Callable[[Any], tuple[int, ...]],
        work: Callable[[list[Any]], Iterable[Any]],
    ) -> list[Any]:
        """Return results in the order of the items; None for one that does not fit alone."""
        found: list[Any] = [None] * len(items)
        order = sorted(range(len(items)), key=lambda index: shape(items[index]), reverse=True)
        for size, same in groupby(order, key=lambda index: shape(items[index])):
            left = list(same)
            while left:
                batch = left[: max(1, self.token_budget // sum(size))]
                try:
                    results = list(work([items[index] for index in batch]))
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    results = None
                # Outside the handler, whose exception keeps the batch's tensors alive.
                if results is None:
                    free_memory()
                    if len(batch) > 1:
                        self.token_budget = len(batch) * sum(size) // 2
                        continue
                    results = [None]
                for index, result in zip(batch, results, strict=True):
                    found[index] = result
                left = left[len(batch) :]
        return found
