"""Files of the data set from parts: a large part is linked as it is, small ones in a row are joined into one file."""

import io
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from embedome.dataset.format import embedding_metadata
from embedome.dataset.part_file import describe_file, embedding_sink
from embedome.merging.verified_parts import ListedPart, VerifiedPart, check_part
from embedome.parquet.concatenation import Concatenation, OtherSchemaError
from embedome.parquet.vectors import GROUP_ROWS

log = logging.getLogger(__name__)


# Of a file whose rows are new ones and reused ones, where no other size is asked for.
FILE_BYTES = 384_000_000


@dataclass(frozen=True, slots=True)
class FileTask:
    """A file to make in a folder, of consecutive parts of one split."""

    folder: Path
    parts: list[ListedPart]
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BuiltFile:
    """A file that was made: its line in the manifest, and the parts in it."""

    entry: dict[str, Any]
    parts: list[VerifiedPart]


def plan_files(parts: Iterable[ListedPart], file_bytes: int) -> list[list[ListedPart]]:
    """Group the parts of a split, in order, by the file they go into.

    Parts of less than two thirds of `file_bytes` go together up to four thirds of it, so that most files are between
    the two. It depends on nothing but the parts' sizes.
    """
    groups: list[list[ListedPart]] = []
    room = 0
    for part in parts:
        size = part.entry["bytes"]
        small = 3 * size < 2 * file_bytes
        if small and size <= room:
            groups[-1].append(part)
        else:
            groups.append([part])
            room = 4 * file_bytes // 3 if small else 0
        room -= size
    return groups


def build_file(task: FileTask) -> BuiltFile:
    """Check parts and make their file, one part in memory at a time.

    Raises
    ------
    UserError
        As `verified_parts.check_part`; and for a part whose columns are not written as those before it.
    """
    first = task.parts[0]
    path = task.folder / first.name
    if len(task.parts) == 1:
        checked, _ = check_part(first)
        link_or_copy(first.path, path)
        keep = ("rows", "first_id", "last_id", "bytes", "sha256")
        return BuiltFile({"file": first.name, **{key: first.entry[key] for key in keep}}, [checked])
    found = []
    try:
        with JoinedFile(path) as joined:
            for part in task.parts:
                checked, table = check_part(part)
                joined.add(part.path, table)
                found.append(checked)
            joined.finish(embedding_metadata(task.provenance))
    except OtherSchemaError as error:
        raise part.fault(str(error)) from None
    ends = [part.entry[key] for part in task.parts if part.entry["rows"] for key in ("first_id", "last_id")]
    return BuiltFile({**describe_file(path, joined.rows, ends, joined.sha256.hexdigest()), "file": first.name}, found)


class JoinedFile(Concatenation):
    """Writes a file of parts: row groups of large ones are copied, rows of small ones encoded anew in whole groups.

    Large is a part with a whole row group: many short ones would make a file that is slow to read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.waiting: list[pa.Table] = []

    def add(self, path: Path, table: pa.Table) -> None:
        """Add a part, given its rows.

        Raises
        ------
        OtherSchemaError
        """
        if len(table) < GROUP_ROWS:
            self.waiting.append(table)
            self.encode(self.n_waiting - self.n_waiting % GROUP_ROWS)
            return
        self.encode(self.n_waiting)
        with open(path, "rb") as source:
            self.append(source)

    @property
    def n_waiting(self) -> int:
        """Rows that wait."""
        return sum(map(len, self.waiting))

    def encode(self, count: int) -> None:
        """Write the first of the waiting rows; of the file's first part at least the columns, as it may have no row."""
        if not (count or (self.waiting and not self.footer)):
            return
        table = pa.concat_tables(self.waiting)
        encoded = io.BytesIO()
        with embedding_sink(encoded, table.schema) as sink:
            sink.write(table.slice(0, count))
        self.append(encoded)
        self.waiting = [table.slice(count)]

    def finish(self, metadata: Mapping[bytes, bytes]) -> None:
        """Write what is waiting, and the footer."""
        self.encode(self.n_waiting)
        super().finish(metadata)


def link_or_copy(path: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that cannot be."""
    try:
        os.link(path, target)
    except OSError as error:
        log.info("%s: copied, as it cannot be linked (%s)", path, error.strerror)
        shutil.copyfile(path, target)
