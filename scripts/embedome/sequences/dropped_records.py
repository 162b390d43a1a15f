"""The list of records that a command left out, beside its result."""

import csv
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from embedome.common.atomic_files import atomic_path
from embedome.common.outputs import check_output

log = logging.getLogger(__name__)


COLUMNS = ("state", "id", "reason", "detail", "length")


def dropped_path(out: Path) -> Path:
    """Return the path of the list of a result."""
    return out.with_name(out.name + ".dropped.tsv")


def check_dropped(out: Path) -> None:
    """Refuse a result whose list would be written over a file that is no such list.

    Raises
    ------
    UserError
        Names that file.
    """
    check_output(dropped_path(out), is_own=lambda path: begins_with(path, COLUMNS))


def begins_with(path: Path, columns: Sequence[str]) -> bool:
    """Return whether a table, separated by tabs, has these columns."""
    with open(path, "rb") as handle:
        return handle.readline() == "\t".join(columns).encode() + b"\n"


def write_dropped(out: Path, rows: Iterable[tuple]) -> None:
    """List the records without a row in ``<out>.dropped.tsv``; without any, remove the list of an earlier run.

    Parameters
    ----------
    out : path
        The result that lacks them.
    rows : iterable of tuples
        Values of `COLUMNS`; the state is ``rejected`` (the record is faulty) or ``skipped`` (the model cannot).
    """
    path, rows = dropped_path(out), list(rows)
    check_dropped(out)
    if not rows:
        path.unlink(missing_ok=True)
        return
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerows([COLUMNS, *rows])
    log.info("%d records got no row; they are listed in %s", len(rows), path)
