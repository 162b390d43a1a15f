"""Records of one id: exact repeats are rejected, and two sequences under one id are listed."""

import csv
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.atomic_files import atomic_path
from embedome.common.errors import UserError, cut
from embedome.common.outputs import check_output
from embedome.sequences.dropped_records import begins_with

REPEAT = "exact-repeat"
# Of records with no id, or a bad one: these say nothing of which record is meant.
NAMELESS = ("no-id", "invalid-id")
COLUMNS = ("id", "file", "number", "length", "other_file", "other_number", "other_length")

# Names a record for a message, by file and number.
Where = Callable[[int, int], str]


def list_path(out: str | os.PathLike) -> Path:
    """Return the path of the list of pairs, beside a result."""
    return Path(f"{os.fspath(out)}.same_ids.tsv")


def reject_repeats(rows: pa.Table, where: Where) -> tuple[pa.Table, pa.Table]:
    """Reject records that have id and sequence of an earlier one, and find those of other sequences.

    Parameters
    ----------
    rows : pyarrow.Table
        Records in the order of ids, and within one id of the input, with the columns ``id``, ``digest``, ``reason``,
        ``detail``, ``digest_prefix``, ``file`` and ``number``.
    where : callable

    Returns
    -------
    rows : pyarrow.Table
        With a reason for the repeats.
    pairs : pyarrow.Table
        Of each id the first record beside each one of another sequence, with the columns `COLUMNS`.
    """
    named = np.flatnonzero(pc.invert(pc.is_in(rows["reason"], value_set=pa.array(NAMELESS))).to_numpy())
    ids, digests = (rows[name].combine_chunks().take(pa.array(named)) for name in ("id", "digest"))
    same = pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    if not same.any():
        return rows, pair_table(rows, named[:0], named[:0])
    # Of each record the first one of its id.
    first = np.maximum.accumulate(np.where(np.concatenate([[True], ~same]), np.arange(len(named)), 0))
    equal = pc.equal(digests, digests.take(pa.array(first))).to_numpy(zero_copy_only=False)
    differs = np.flatnonzero(~equal)
    return set_repeats(rows, named, first, where), pair_table(rows, named[first[differs]], named[differs])


def set_repeats(rows: pa.Table, named: np.ndarray, first: np.ndarray, where: Where) -> pa.Table:
    """Give a reason to kept records after the first kept one of their id; `first` has the first row of each id."""
    kept = rows["reason"].is_null().to_numpy()[named]
    groups, places = first[kept], named[kept]
    starts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]])) if len(groups) else groups
    origin = np.repeat(places[starts], np.diff(starts, append=len(groups)))
    repeats = places != origin
    if not repeats.any():
        return rows
    mask = np.zeros(len(rows), bool)
    mask[places[repeats]] = True
    files, numbers = rows["file"].to_numpy(), rows["number"].to_numpy()
    details = [f"as {where(files[row], numbers[row])}" for row in origin[repeats]]
    new = {"reason": [REPEAT] * len(details), "detail": details}
    for name, values in new.items():
        column = pc.replace_with_mask(rows[name].combine_chunks(), pa.array(mask), pa.array(values, pa.string()))
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def pair_table(rows: pa.Table, first: np.ndarray, second: np.ndarray) -> pa.Table:
    """Return pairs of rows side by side."""
    columns = rows.select(["id", "file", "number", "length"])
    one, other = (columns.take(pa.array(each)) for each in (first, second))
    return pa.table([*one.columns, *other.columns[1:]], list(COLUMNS))


class PairList:
    """The list of pairs, a table separated by tabs; there is none without pairs.

    Parameters
    ----------
    path : Path
    names : sequence of str
        Of the files.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self.names = path, names
        self.count = 0
        self.first: dict[str, Any] = {}

    def __enter__(self) -> Self:
        check_output(self.path, is_own=lambda path: begins_with(path, COLUMNS))
        self.path.unlink(missing_ok=True)
        self.stack = ExitStack()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)

    def add(self, pairs: pa.Table) -> None:
        """Write pairs."""
        if not len(pairs):
            return
        if not self.count:
            temporary = self.stack.enter_context(atomic_path(self.path))
            handle = self.stack.enter_context(temporary.open("w", newline="", encoding="utf-8"))
            self.writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
            self.writer.writerow(COLUMNS)
            self.first = pairs.slice(0, 1).to_pylist()[0]
        self.count += len(pairs)
        for row in pairs.to_pylist():
            files = {name: self.names[row[name]] for name in ("file", "other_file")}
            self.writer.writerow((row | files).values())

    def check(self, where: Where) -> None:
        """Publish the list, and fail where it holds a pair.

        Raises
        ------
        UserError
            Names the first pair, and the list.
        """
        self.stack.close()
        if self.count:
            one, other = (where(self.first[f"{end}file"], self.first[f"{end}number"]) for end in ("", "other_"))
            all_of_them = f"all {self.count:,} such pairs are" if self.count > 1 else "the pair is"
            raise UserError(
                f"two records have the id '{cut(self.first['id'])}': {one} and {other}, with different sequences; "
                f"{all_of_them} listed in {self.path}. An id must be unique: rename or remove one, or choose another "
                "part of the header as the id"
            )
