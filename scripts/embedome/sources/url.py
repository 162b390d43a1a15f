"""The download of a file from any address, checked by its size, where the server says it, and by given checksums."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from embedome.common.errors import UserError
from embedome.sequences.any_format import read_any_chunks
from embedome.sources.http import (
    MirrorError,
    RetryableError,
    http_get,
    is_continuation,
    range_headers,
    read_body,
    with_retries,
)
from embedome.sources.mirrors import file_blocks, host_of, is_file, recorded_url
from embedome.sources.partial_download import PartialDownload

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)


CHUNK_BYTES = 4 << 20


def download_url(
    url: str, database: str, target: Path, record: Path, *, md5: str | None = None, sha256: str | None = None
) -> None:
    """Download a file of sequences from an address.

    The file must be as long as the server says, where it does, have the checksums that are given, be whole under its
    compression, and begin as FASTA or UniRef XML does; then it is published as `target`. A broken connection is
    resumed, in this run or the next, where the server names the version of the file by a strong ETag, else started
    from zero: without one nobody knows whether the rest is that of the same file.

    Parameters
    ----------
    url : str
        ``http(s)://host/…`` or ``file:///…``.
    database : str
        What the sequences are called, for the record.
    target : Path
        Where the file goes, compressed as it comes.
    record : Path
        Where release.json goes: url (of a ``file://`` address the file's name alone), database, release and date (as
        UniProt's ``X-UniProt-Release`` and ``X-UniProt-Release-Date`` have them; else null, and ``Last-Modified``),
        bytes, md5, sha256.
    md5, sha256 : str, optional
        What the file must have, in hexadecimal digits.

    Raises
    ------
    UserError
        Where the address is none, holds a password, or serves no such file, and where another process downloads to
        `target`.

    References
    ----------
    Validators: RFC 9110, section 8.8.1.
    """
    check_url(url)
    name = urlsplit(url).path.rpartition("/")[2] or database
    wanted = {"md5": md5, "sha256": sha256}
    with PartialDownload(Path(target)) as part:
        try:
            facts = fetch_checked(url, name, part, {key: value.lower() for key, value in wanted.items() if value})
        except MirrorError as error:
            raise UserError(f"{url}: {error}. Check the address and the network, then run again") from None
        known = {"url": recorded_url(url), "database": database, "release": None, "date": None}
        part.publish_with_record(Path(record), known | facts)


def check_url(url: str) -> None:
    """Refuse what is no address, and one with a password, as it would be recorded in what is made."""
    if not re.match(r"https?://[^/?#]|file://(localhost)?/", url):
        raise UserError(f"source.url is {url!r}; expected http(s)://host/… or file:///absolute/path")
    if "@" in host_of(url):
        raise UserError("source.url holds a user's name or password, which would be recorded; expected one without")


def fetch_checked(url: str, name: str, part: PartialDownload, wanted: dict[str, str]) -> dict[str, Any]:
    """Fill `part` and check it; gives what release.json says."""
    for _ in range(2):
        if is_file(url):
            part.restart({})
            part.append(file_blocks(url), name, None)
            facts: dict[str, Any] = {}
        else:
            facts = with_retries(lambda: fetch_rest(url, name, part), name, lambda: part.size)
        md5, sha256 = part.digests(name)
        facts |= {"bytes": part.size, "md5": md5, "sha256": sha256}
        wrong = [key for key, value in wanted.items() if value != facts[key]]
        fault = "; ".join(f"expected {key} {wanted[key]} (source.{key}), got {facts[key]}" for key in wrong)
        fault = fault or unreadable(part)
        if not fault:
            return facts
        # What was put together from several answers may be wrong where the server is right: once more, from zero.
        joined = part.joined
        part.restart({})
        if not joined:
            break
    raise MirrorError(f"{name}: {fault}")


def fetch_rest(url: str, name: str, part: PartialDownload) -> dict[str, Any]:
    """Fetch what `part` lacks of a file on a server, or all of it; gives release and date, as the server says."""
    known = part.known(url)
    size = known.get("bytes")
    start = part.size if size and part.size <= size else 0
    if start and start == size:
        return dict(known.get("facts", {}))
    with http_get(url, range_headers(start, known) if start else {}) as response:
        facts = release_facts(response)
        if response.status_code == 200:
            length = response.headers.get("Content-Length", "")
            size = int(length) if length.isdecimal() else None
            part.restart(resumable_note(url, response, size, facts))
        elif is_continuation(response, start, size, known):
            log.info("%s: resumed at %d of %d bytes", name, start, size)
            part.keep(known)
        else:
            part.restart({})
            raise RetryableError("the file on the server is not the one that was begun, starting from zero")
        part.append(read_body(response), name, size)
    if size is None:
        log.warning("%s: the server did not say how long the file is; %d bytes came", name, part.size)
    elif part.size < size:
        raise RetryableError(f"the connection ended after {part.size} of {size} bytes")
    elif part.size > size:
        raise MirrorError(f"{name}: longer than the {size} bytes that the server announced")
    return facts


def release_facts(response: "requests.Response") -> dict[str, Any]:
    """What an answer says of its file's release."""
    headers = response.headers
    date = headers.get("X-UniProt-Release-Date") or headers.get("Last-Modified")
    return {"release": headers.get("X-UniProt-Release"), "date": date}


def resumable_note(url: str, response: "requests.Response", size: int | None, facts: dict[str, Any]) -> dict[str, Any]:
    """The note by which a file can be gone on with; empty where the server names no version of it, or no size."""
    etag = response.headers.get("ETag", "")
    return {"url": url, "bytes": size, "ETag": etag, "facts": facts} if etag.startswith('"') and size else {}


def unreadable(part: PartialDownload) -> str:
    """What keeps a file from being read as sequences, front to back; empty for nothing."""
    part.handle.flush()
    try:
        for _ in read_any_chunks(part.path, CHUNK_BYTES):
            pass
    except UserError as error:
        return str(error).replace(f"{part.path}: ", "").replace(f"{part.path} ", "the file ")
    return ""
