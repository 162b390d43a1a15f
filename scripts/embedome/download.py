"""The download of a sequence database release, from mirrors that follow UniProt's FTP layout.

A mirror is the URL of a folder that holds ``RELEASE.metalink`` and ``<database>.fasta.gz``. The metalink says
which size and md5 the file must have; nothing is published that does not have them. What has arrived of an
unfinished download lies in ``.<name>.part`` beside the target, and ``.<name>.part.json`` says which file of
which server it is a part of, so that the next try, or the next run, goes on from there.
"""

import errno
import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname
from xml.etree import ElementTree

from embedome.errors import UserError
from embedome.files import read_json, sync, write_json
from embedome.http import BrokenError, MirrorError, http_get, with_retries
from embedome.log import Progress

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

METALINK = "RELEASE.metalink"
NAMESPACE = "{http://www.metalinker.org/}"
METALINK_LIMIT_BYTES = 16 << 20
BLOCK_BYTES = 1 << 20
VALIDATORS = ("ETag", "Last-Modified")


@dataclass(frozen=True, slots=True)
class Expected:
    """What the metalink says of the file."""

    name: str
    release: str
    date: str | None
    bytes: int
    md5: str


def download_release(mirrors: Sequence[str], database: str, fasta: Path, record: Path) -> None:
    """Download one database of a release from the first mirror that serves it whole and right.

    The file is checked against the size and md5 of the mirror's RELEASE.metalink before it is published as
    `fasta`. A broken connection is resumed, in this run or the next.

    Parameters
    ----------
    mirrors : sequence of str
        ``file://`` or ``http(s)://`` URLs of folders in UniProt's FTP layout, tried in turn.
    database : str
        The name of the file without ``.fasta.gz``, e.g. ``uniref50``.
    fasta : Path
        Where the file goes, compressed as it comes.
    record : Path
        Where release.json goes: url, database, release, date (the metalink's ``pubdate``; null where it has
        none), bytes, md5, sha256. For a ``file://`` mirror the url is the file's name alone, so that the record
        does not depend on the folder.

    Raises
    ------
    UserError
        Where a mirror is no such URL, where another process downloads to `fasta`, and where no mirror gave a
        verified copy; the message lists each mirror with what went wrong.

    References
    ----------
    Metalink 3.0, as UniProt writes it: https://ftp.uniprot.org/pub/databases/uniprot/uniref/uniref50/RELEASE.metalink.
    Range requests: RFC 9110, sections 13.1.5 (If-Range), 14 and 15.3.7.
    """
    for mirror in mirrors:
        check_mirror(mirror)
    name = f"{database}.fasta.gz"
    failures = []
    with Part(Path(fasta)) as part:
        for mirror in mirrors:
            try:
                expected, sha256 = fetch_verified(mirror, name, part)
            except MirrorError as error:
                failures.append(f"{mirror}: {error}")
                log.warning("%s", failures[-1])
                continue
            Path(record).unlink(missing_ok=True)  # an old record must never stand beside a new file
            part.publish()
            url = name if is_file(mirror) else join(mirror, name)
            facts = {"url": url, "database": database, "release": expected.release, "date": expected.date}
            write_json(record, facts | {"bytes": expected.bytes, "md5": expected.md5, "sha256": sha256})
            return
    tried = "; ".join(failures) or "none is configured"
    raise UserError(
        f"{name}: no mirror gave a verified copy: {tried}. Check the mirrors and the network, then run again; "
        "what has arrived of a broken download is kept"
    )


def fetch_verified(mirror: str, name: str, part: "Part") -> tuple[Expected, str]:
    """Fill `part` from one mirror and check it; gives what the metalink said, and the sha256."""
    expected = parse_metalink(read_metalink(join(mirror, METALINK)), name)
    for _ in range(2):
        if is_file(mirror):
            part.restart({})
            append(file_blocks(join(mirror, name)), expected, part)
        else:
            with_retries(
                lambda: fetch_rest(join(mirror, name), expected, part), name, lambda: part.usable_bytes(expected)
            )
        size = part.size
        md5, sha256 = part.digests(name)
        if (size, md5) == (expected.bytes, expected.md5):
            return expected, sha256
        # A file put together from several answers may be wrong where the mirror is right: once more, from zero.
        joined = part.joined
        part.restart({})
        if not joined:
            break
    raise MirrorError(
        f"{name}: expected {expected.bytes} bytes with md5 {expected.md5} ({METALINK}), got {size} bytes with md5 {md5}"
    )


def check_mirror(mirror: str) -> None:
    """Refuse what is not the URL of a folder on this machine or on a web server."""
    if not re.match(r"https?://[^/]|file://(localhost)?/", mirror):
        raise UserError(f"mirror {mirror!r}: expected file:///absolute/folder or http(s)://host/folder")


def is_file(url: str) -> bool:
    """Whether a URL names a file on this machine."""
    return urlsplit(url).scheme == "file"


def join(mirror: str, name: str) -> str:
    """The URL of a file in a mirror's folder."""
    return f"{mirror.rstrip('/')}/{name}"


def read_metalink(url: str) -> bytes:
    """The bytes of the metalink, from a file or a server."""
    if is_file(url):
        return limited(file_blocks(url))

    def attempt() -> bytes:
        with http_get(url, {}) as response:
            return limited(response.raw.stream(BLOCK_BYTES, decode_content=True))

    return with_retries(attempt, METALINK, lambda: 0)


def limited(blocks: Iterable[bytes]) -> bytes:
    """Join blocks, refusing what is far too large for a metalink."""
    data = bytearray()
    for block in blocks:
        data += block
        if len(data) > METALINK_LIMIT_BYTES:
            raise MirrorError(f"{METALINK}: larger than {METALINK_LIMIT_BYTES} bytes, so not a metalink")
    return bytes(data)


def parse_metalink(data: bytes, name: str) -> Expected:
    """What a metalink says of the file `name`."""
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise MirrorError(f"{METALINK}: not valid XML ({error})") from None
    entry = next((entry for entry in root.iter(f"{NAMESPACE}file") if entry.get("name") == name), None)
    if entry is None:
        raise MirrorError(f"{METALINK}: no entry for {name}")
    md5 = entry.findtext(f"{NAMESPACE}verification/{NAMESPACE}hash[@type='md5']", "").strip().lower()
    size = entry.findtext(f"{NAMESPACE}size", "").strip()
    release = root.findtext(f"{NAMESPACE}version", "").strip()
    for field, value, form in (("size", size, "[0-9]{1,18}"), ("md5", md5, "[0-9a-f]{32}"), ("version", release, ".+")):
        if not re.fullmatch(form, value):
            raise MirrorError(f"{METALINK}: {field} for {name} is {value!r}, expected {form}")
    return Expected(name, release, root.get("pubdate"), int(size), md5)


def file_blocks(url: str) -> Iterator[bytes]:
    """The blocks of a local file; what cannot be read is the mirror's fault."""
    path = url2pathname(urlsplit(url).path)
    try:
        with open(path, "rb") as handle:
            while block := handle.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise MirrorError(f"{path}: {error.strerror}") from None


def fetch_rest(url: str, expected: Expected, part: "Part") -> None:
    """Fetch what `part` lacks of a file on a server, or all of it where the server cannot go on."""
    start = part.usable_bytes(expected)
    if start == expected.bytes:
        return
    with http_get(url, part.range_headers(url, start) if start else {}) as response:
        length = response.headers.get("Content-Length", "")
        note = {"url": url, "bytes": expected.bytes, "md5": expected.md5}
        note |= {header: response.headers[header] for header in VALIDATORS if header in response.headers}
        if response.status_code == 200:
            if length not in ("", str(expected.bytes)):
                raise MirrorError(f"{expected.name}: expected {expected.bytes} bytes ({METALINK}), got {length} bytes")
            part.restart(note)
        elif part.continued_by(url, response, start, expected):
            log.info("%s: resumed at %d of %d bytes", expected.name, start, expected.bytes)
            part.keep(note)
        else:
            part.restart({})
            raise BrokenError("the file on the server is not the one that was begun, starting from zero")
        append(response.raw.stream(BLOCK_BYTES, decode_content=False), expected, part)
    if part.size < expected.bytes:
        raise BrokenError(f"the connection ended after {part.size} of {expected.bytes} bytes")


def append(blocks: Iterable[bytes], expected: Expected, part: "Part") -> None:
    """Append blocks to `part`, and at most one more than belongs there."""
    with Progress(f"download {expected.name}", "bytes", expected.bytes - part.size) as progress:
        for block in blocks:
            part.handle.write(block)
            progress.update(len(block))
            if part.size > expected.bytes:
                break


class Part:
    """The partial download beside its target, held by one process at a time, and the note of what it is part of.

    The note (url, bytes, md5, ETag, Last-Modified) is removed before the part is emptied and written before its
    first byte: a part without a note is never resumed, whatever was killed and when.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        self.note_path = target.with_name(f".{target.name}.part.json")
        target.parent.mkdir(parents=True, exist_ok=True)
        self.handle = open(self.path, "a+b")  # noqa: SIM115 - __exit__ closes it
        self.lock()
        self.note = read_json(self.note_path) if self.note_path.exists() else {}
        self.joined = True  # whether the bytes come from more than one answer
        self.published = False

    def lock(self) -> None:
        """Hold the part against other processes, as far as the file system knows locks."""
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(self.handle.fileno()), os.stat(self.path))
        except (BlockingIOError, FileNotFoundError):
            held = False
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            held = True
        if not held:
            self.handle.close()
            raise UserError(f"{self.target}: another process is downloading it; wait for it, then run again")

    @property
    def size(self) -> int:
        """How many bytes have arrived."""
        return self.handle.seek(0, os.SEEK_END)

    def usable_bytes(self, expected: Expected) -> int:
        """How many bytes can be kept for the file that the metalink names."""
        same = (self.note.get("bytes"), self.note.get("md5")) == (expected.bytes, expected.md5)
        return self.size if same and self.size <= expected.bytes else 0

    def range_headers(self, url: str, start: int) -> dict[str, str]:
        """The headers that ask for the rest, and for all of it where the server's file has changed."""
        headers = {"Range": f"bytes={start}-"}
        etag, modified = (self.note.get(header, "") for header in VALIDATORS)
        # Another server names the same file by another ETag; there the metalink's md5 alone must agree.
        # If-Range takes no weak ETag (RFC 9110, section 13.1.5).
        validator = etag if etag.startswith('"') else modified
        if validator and self.note.get("url") == url:
            headers["If-Range"] = validator
        return headers

    def continued_by(self, url: str, response: "requests.Response", start: int, expected: Expected) -> bool:
        """Whether an answer is the rest of the very file that was begun."""
        span = f"bytes {start}-[0-9]+/{expected.bytes}"
        if response.status_code != 206 or not re.fullmatch(span, response.headers.get("Content-Range", "")):
            return False
        known = [header for header in VALIDATORS if header in self.note and header in response.headers]
        return self.note["url"] != url or all(self.note[header] == response.headers[header] for header in known)

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

    def publish(self) -> None:
        """Give the verified part its name."""
        self.handle.flush()
        os.fsync(self.handle.fileno())
        self.note_path.unlink(missing_ok=True)
        os.replace(self.path, self.target)
        self.published = True  # from here on, what has the part's name is another process's
        sync(self.target.parent)

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *exception: object) -> None:
        """Let go of the part; one that cannot be resumed, or holds nothing, is removed."""
        with self.handle:
            if not self.published and not (self.note and self.size):
                self.note_path.unlink(missing_ok=True)
                self.path.unlink(missing_ok=True)
