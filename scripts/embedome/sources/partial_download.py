"""What has arrived of a download: a file beside its target, and the note of what it is a part of."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from embedome.common.atomic_files import sync
from embedome.common.errors import UserError
from embedome.common.json_files import read_json, write_json
from embedome.common.locks import try_lock
from embedome.common.log import Progress
from embedome.common.outputs import check_regular
from embedome.sources.http import (
    BLOCK_BYTES,
    VALIDATORS,
    MirrorError,
    RetryableError,
    open_rest,
    read_body,
    read_validators,
)

if TYPE_CHECKING:
    import requests


# What is known of a file that was begun: url, bytes (None: the server did not say), validators, md5 where it is known
# beforehand, and what the kind of download adds.
Note = Mapping[str, Any]


@contextmanager
def partial_download(target: Path, max_gb: float | None = None) -> Iterator["PartialDownload"]:
    """Yield the partial download beside a target, held against other processes until the block ends.

    It takes `max_gb` gigabytes at most, where given. One that cannot be resumed, or holds nothing, is removed then.

    Raises
    ------
    UserError
        Where another process holds it, and where at one of its names is something else than a regular file.
    """
    path, note_path, lock_path = (target.with_name(f".{target.name}.part{end}") for end in ("", ".json", ".lock"))
    for each in (target, path, note_path, lock_path):
        check_regular(each)
    with try_lock(lock_path) as is_held:
        if not is_held:
            raise UserError(f"{target}: another process is downloading it; wait for it, then run again")
        try:
            with open(path, "a+b") as handle:
                part = PartialDownload(target, path, note_path, handle, max_gb)
                try:
                    yield part
                finally:
                    part.remove_unless_resumable()
        finally:
            # While it is held: who opened it meanwhile does not get the lock, and who comes next makes a new file.
            lock_path.unlink(missing_ok=True)


class PartialDownload:
    """The bytes of a download that have arrived, in a file that this process holds, and the note of what they are.

    The note is removed before the part is emptied and written before its first byte: a part without a note is never
    resumed, whatever was killed and when.
    """

    def __init__(
        self, target: Path, path: Path, note_path: Path, handle: BinaryIO, max_gb: float | None = None
    ) -> None:
        self.max_gb = max_gb
        self.target, self.path, self.note_path, self.handle = target, path, note_path, handle
        self.note: Note = read_json(note_path) if note_path.exists() else {}
        self.joined = True  # whether the bytes come from more than one answer

    @property
    def size(self) -> int:
        """How many bytes have arrived."""
        return self.handle.seek(0, os.SEEK_END)

    def drop_unless(self, wanted: Mapping[str, Any]) -> None:
        """Empty the part, unless its note says all that is `wanted`."""
        if any(self.note.get(key) != value for key, value in wanted.items()):
            self.restart({})

    def restart(self, note: Note) -> None:
        """Empty the part, for the file that the note describes."""
        self.note_path.unlink(missing_ok=True)
        self.handle.truncate(0)
        if note:
            self.keep(note)
        self.note, self.joined = note, False

    def keep(self, note: Note) -> None:
        """Keep what has arrived, to be continued by an answer of the server that the note describes."""
        write_json(self.note_path, note)
        self.note, self.joined = note, True

    def append(self, blocks: Iterable[bytes], name: str, size: int | None) -> None:
        """Append blocks, and at most one more than belongs to a file of `size` bytes, where that is known."""
        self.check_size(name, size or 0)
        with Progress(f"download {name}", "bytes", None if size is None else size - self.size) as progress:
            for block in blocks:
                self.handle.write(block)
                self.check_size(name, self.size)
                progress.update(len(block))
                if size is not None and self.size > size:
                    break

    def check_size(self, name: str, size: int) -> None:
        """Refuse a file that is, or will be, larger than may be; what has arrived of it is removed.

        Raises
        ------
        MirrorError
        """
        if self.max_gb is not None and size > self.max_gb * 1e9:
            self.restart({})
            raise MirrorError(f"{name}: more than the {self.max_gb:g} GB of source.max_gb")

    def digests(self, name: str) -> tuple[str, str]:
        """Compute the md5 and the sha256 of what lies on the disk."""
        md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        with Progress(f"verify {name}", "bytes", self.size) as progress:
            self.handle.seek(0)
            while block := self.handle.read(BLOCK_BYTES):
                md5.update(block)
                sha256.update(block)
                progress.update(len(block))
        return md5.hexdigest(), sha256.hexdigest()

    def publish_with_record(self, record: Path, facts: Mapping[str, Any]) -> None:
        """Rename the verified part to its target, then write what is known of it."""
        record.unlink(missing_ok=True)  # an old record must never stand beside a new file
        self.publish()
        write_json(record, facts)

    def publish(self) -> None:
        """Rename the verified part to its target."""
        self.handle.flush()
        os.fsync(self.handle.fileno())
        self.note_path.unlink(missing_ok=True)
        os.replace(self.path, self.target)
        sync(self.target.parent)

    def remove_unless_resumable(self) -> None:
        """Remove a part that cannot be resumed, or holds nothing."""
        if not (is_resumable(self.note) and self.size):
            self.note_path.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)


def is_resumable(note: Note) -> bool:
    """Return whether a later answer may continue a file: its md5 decides in the end, or a strong ETag at once."""
    return bool(note.get("bytes")) and ("md5" in note or note.get("ETag", "").startswith('"'))


def fetch_rest(part: PartialDownload, url: str, name: str, describe: Callable[["requests.Response"], Note]) -> None:
    """Fetch what `part` lacks of a file on a server, or all of it where it or the server cannot go on.

    Parameters
    ----------
    part : PartialDownload
        Empty, or the beginning of the file by `drop_unless`. Its note describes the file in the end.
    url : str
    name : str
        What the file is called in messages.
    describe : callable
        Returns what an answer says of the whole file: bytes at the least. May refuse it by MirrorError.

    Raises
    ------
    RetryableError
        Where the connection ended too soon, or the server no longer has the file that was begun.
    MirrorError

    References
    ----------
    Validators: RFC 9110, section 8.8.1. Range requests: sections 13.1.5 (If-Range), 14 and 15.3.7.
    """
    start, size = part.size if is_resumable(part.note) else 0, part.note.get("bytes")
    if start and start == size:
        return
    # Another server names the same file by another ETag; there the md5 alone must agree.
    known = part.note if part.note.get("url") == url else {}
    with open_rest(url, name, start, size, known) as (response, begins):
        here = {"url": url, **read_validators(response)}
        if begins is None:
            part.restart({})
            raise RetryableError("the file on the server is not the one that was begun, starting from zero")
        if begins == 0:
            part.restart({**here, **describe(response)})
        else:
            part.keep({key: value for key, value in part.note.items() if known or key not in VALIDATORS} | here)
        size = part.note["bytes"]
        part.append(read_body(response), name, size)
    if size is not None and part.size < size:
        raise RetryableError(f"the connection ended after {part.size} of {size} bytes")
