"""Files of the data set from parts: a large part is linked as it is, small ones in a row are written into one."""

import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedome.dataset.format import embedding_metadata
from embedome.dataset.part_file import describe_file, embedding_sink
from embedome.merging.verified_parts import ListedPart, VerifiedPart, check_part

log = logging.getLogger(__name__)


# Of a file whose rows are new ones and reused ones, where no other size is asked for.
FILE_BYTES = 128_000_000


@dataclass(frozen=True, slots=True)
class FileTask:
    """A file to make in a folder, of consecutive parts of one split."""

    folder: Path
    parts: list[ListedPart]
    provenance: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BuiltFile:
    """A file that was made: its entry in the manifest, and the parts in it."""

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
    """Check parts and make their file, one part in memory at a time, in whole row groups.

    Raises
    ------
    UserError
        As `verified_parts.check_part`; and for a part whose columns are not those of the parts before it.
    """
    first, *others = task.parts
    path = task.folder / first.name
    checked, table = check_part(first)
    if not others:
        link_or_copy(first.path, path)
        keep = ("rows", "first_id", "last_id", "bytes", "sha256")
        return BuiltFile({"file": first.name, **{key: first.entry[key] for key in keep}}, [checked])
    found, schema = [checked], table.schema
    with embedding_sink(path, schema) as sink:
        sink.write(table)
        for part in others:
            checked, table = check_part(part)
            if table.schema != schema:
                raise part.fault("its columns are not those of the parts before it")
            sink.write(table)
            found.append(checked)
        sink.describe(embedding_metadata(task.provenance))
    ends = [part.entry[key] for part in task.parts if part.entry["rows"] for key in ("first_id", "last_id")]
    return BuiltFile({**describe_file(path, sink.rows, ends), "file": first.name}, found)


def link_or_copy(path: Path, target: Path) -> None:
    """Link a file under a second name, or copy it where it cannot be linked."""
    try:
        os.link(path, target)
    except OSError as error:
        log.info("%s: copied, as it cannot be linked (%s)", path, error.strerror)
        shutil.copyfile(path, target)
