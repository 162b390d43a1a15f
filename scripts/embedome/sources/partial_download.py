"""What has arrived of a download: a file beside its target, and the note of what it is a part of."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from embedome.common.atomic_files import sync
from embedome.common.errors import UserError
from embedome.common.json_files import read_json, write_json
from embedome.common.locks import try_lock
from embedome.common.log import Progress
from embedome.common.outputs import check_regular
from embedome.sources.http import BLOCK_BYTES
from embedome.sources.mirrors import Expected


@contextmanager
def partial_download(target: Path) -> Iterator["PartialDownload"]:
    """Give the partial download beside a target, held against other processes until the block ends.

    One that cannot be resumed, or holds nothing, is removed then.

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
                part = PartialDownload(target, path, note_path, handle)
                try:
                    yield part
                finally:
                    part.remove_unless_resumable()
        finally:
            # While it is held: who opened it meanwhile does not get it, and who comes next makes a new one.
            lock_path.unlink(missing_ok=True)


class PartialDownload:
    """The bytes of a download that have arrived, in a file that this process holds, and the note of what they are.

    The note (url, bytes, md5, ETag, Last-Modified) is removed before the part is emptied and written before its
    first byte: a part without a note is never resumed, whatever was killed and when.
    """

    def __init__(self, target: Path, path: Path, note_path: Path, handle: BinaryIO) -> None:
        self.target, self.path, self.note_path, self.handle = target, path, note_path, handle
        self.note = read_json(note_path) if note_path.exists() else {}
        self.joined = True  # whether the bytes come from more than one answer

    @property
    def size(self) -> int:
        """How many bytes have arrived."""
        return self.handle.seek(0, os.SEEK_END)

    def usable_bytes(self, expected: Expected) -> int:
        """How many bytes can be kept for the file that the metalink names."""
        same = (self.note.get("bytes"), self.note.get("md5")) == (expected.bytes, expected.md5)
        return self.size if same and self.size <= expected.bytes else 0

    def known(self, url: str) -> Mapping[str, Any]:
        """What is known of the file on the server that was begun with.

        Another server names the same file by another ETag; there the metalink's md5 alone must agree.
        """
        return self.note if self.note.get("url") == url else {}

    def restart(self, note: Mapping[str, str | int]) -> None:
        """Empty the part, for the file that the note describes; an empty note lets nobody resume it."""
        self.note_path.unlink(missing_ok=True)
        self.handle.truncate(0)
        if note:
            self.keep(note)
        self.note, self.joined = note, False

    def keep(self, note: Mapping[str, str | int]) -> None:
        """Keep what has arrived, to be continued by an answer of the server that the note describes."""
        write_json(self.note_path, note)
        self.note, self.joined = note, True

    def append(self, blocks: Iterable[bytes], name: str, size: int | None) -> None:
        """Append blocks, and at most one more than belongs to a file of `size` bytes, where that is known."""
        with Progress(f"download {name}", "bytes", None if size is None else size - self.size) as progress:
            for block in blocks:
                self.handle.write(block)
                progress.update(len(block))
                if size is not None and self.size > size:
                    break

    def digests(self, name: str) -> tuple[str, str]:
        """The md5 and the sha256 of what lies on the disk."""
        md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        with Progress(f"verify {name}", "bytes", self.size) as progress:
            self.handle.seek(0)
            while block := self.handle.read(BLOCK_BYTES):
                md5.update(block)
                sha256.update(block)
                progress.update(len(block))
        return md5.hexdigest(), sha256.hexdigest()

    def publish_with_record(self, record: Path, facts: Mapping[str, Any]) -> None:
        """Give the verified part its name, then write what is known of it."""
        record.unlink(missing_ok=True)  # an old record must never stand beside a new file
        self.publish()
        write_json(record, facts)

    def publish(self) -> None:
        """Give the verified part its name."""
        self.handle.flush()
        os.fsync(self.handle.fileno())
        self.note_path.unlink(missing_ok=True)
        os.replace(self.path, self.target)
        sync(self.target.parent)

    def remove_unless_resumable(self) -> None:
        """Remove a part that cannot be resumed, or holds nothing."""
        if not (self.note and self.size):
            self.note_path.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
