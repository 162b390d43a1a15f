"""Mirrors of UniProt's FTP site: folders on this machine or on a web server, and what their metalink says."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname
from xml.etree import ElementTree

from embedome.common.errors import UserError
from embedome.sources.http import BLOCK_BYTES, MirrorError, http_get, with_retries

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)


METALINK = "RELEASE.metalink"
NAMESPACE = "{http://www.metalinker.org/}"
METALINK_LIMIT_BYTES = 16 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Expected:
    """What the metalink says of the file."""

    name: str
    release: str
    date: str | None
    bytes: int
    md5: str

    def check_answer(self, response: "requests.Response") -> dict[str, Any]:
        """Refuse an answer whose Content-Length, where it has one, is not that of the file; return its size and md5."""
        length = response.headers.get("Content-Length", "")
        if length not in ("", str(self.bytes)):
            raise MirrorError(f"{self.name}: expected {self.bytes} bytes ({METALINK}), got {length} bytes")
        return {"bytes": self.bytes, "md5": self.md5}

    def differs_from(self, size: int, md5: str) -> str:
        """Say that what came is not the file."""
        return (
            f"{self.name}: expected {self.bytes} bytes with md5 {self.md5} ({METALINK}), "
            f"got {size} bytes with md5 {md5}"
        )


def from_mirrors(mirrors: Sequence[str], name: str, fetch: Callable[[str], T]) -> T:
    """Return what `fetch` returns for the first mirror that serves.

    Raises
    ------
    UserError
        Where none does; lists each with what went wrong.
    """
    failures = []
    for mirror in mirrors:
        try:
            return fetch(mirror)
        except MirrorError as error:
            failures.append(f"{mirror}: {error}")
            log.warning("%s", failures[-1])
    tried = "; ".join(failures) or "none is configured"
    raise UserError(
        f"{name}: no mirror gave a verified copy: {tried}. Check the mirrors and the network, then run again; "
        "what has arrived of a broken download is kept"
    )


def check_mirror(mirror: str) -> None:
    """Refuse what is not the URL of a folder on this machine or on a web server, and one with a password."""
    if "@" in parse_host(mirror):
        raise UserError("source.mirrors has a user's name or password, which would be recorded; expected none in a URL")
    if not re.match(r"https?://[^/]|file://(localhost)?/", mirror):
        raise UserError(f"mirror {mirror!r}: expected file:///absolute/folder or http(s)://host/folder")


def parse_host(url: str) -> str:
    """Return the host of a URL, with user and port where it has them.

    Raises
    ------
    UserError
        Where it is no URL.
    """
    try:
        return urlsplit(url).netloc
    except ValueError as error:
        raise UserError(f"a URL is no address ({error}); expected http(s)://host/…") from None


def is_file(url: str) -> bool:
    """Return whether a URL names a file on this machine."""
    return urlsplit(url).scheme == "file"


def join_url(mirror: str, name: str) -> str:
    """Return the URL of a file in a mirror's folder."""
    return f"{mirror.rstrip('/')}/{name}"


def recorded_url(url: str) -> str:
    """Return what a record says of a file's origin: of a local one the name alone, as records depend on no folder."""
    return url.rpartition("/")[2] if is_file(url) else url


def read_metalink(url: str) -> bytes:
    """Read the bytes of the metalink, from a file or a server."""
    if is_file(url):
        return read_at_most(file_blocks(url))

    def attempt() -> bytes:
        with http_get(url, {}) as response:
            return read_at_most(response.raw.stream(BLOCK_BYTES, decode_content=True))

    return with_retries(attempt, METALINK, lambda: 0)


def read_at_most(blocks: Iterable[bytes]) -> bytes:
    """Join blocks, refusing what is far too large for a metalink."""
    data = bytearray()
    for block in blocks:
        data += block
        if len(data) > METALINK_LIMIT_BYTES:
            raise MirrorError(f"{METALINK}: larger than {METALINK_LIMIT_BYTES} bytes, so not a metalink")
    return bytes(data)


def parse_metalink(data: bytes, name: str) -> Expected:
    """Return what a metalink says of the file `name`."""
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
    """Yield the blocks of a local file; what cannot be read is the mirror's fault."""
    path = url2pathname(urlsplit(url).path)
    try:
        with open(path, "rb") as handle:
            while block := handle.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise MirrorError(f"{path}: {error.strerror}") from None
