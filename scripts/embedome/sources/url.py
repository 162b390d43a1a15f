"""The download of a file from any address, checked by its size, where the server says it, and by given checksums."""

import logging
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from embedome.common.errors import UserError
from embedome.sequences.any_format import read_any_chunks
from embedome.sequences.fasta import Chunk
from embedome.sequences.record_columns import check_chunk
from embedome.sequences.uniref_xml import XmlChunk, parse_chunk
from embedome.sources.http import MirrorError, RetryableError, with_retries
from embedome.sources.mirrors import file_blocks, is_file, parse_host, recorded_url
from embedome.sources.partial_download import PartialDownload, fetch_rest, partial_download

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

CHUNK_BYTES = 4 << 20
# Of a number of bytes or records.
MOST_DIGITS = 18


def download_url(
    url: str,
    database: str,
    target: Path,
    record: Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    max_gb: float | None = None,
) -> None:
    """Download a file of sequences from an address.

    The file must be as long as the server says, and of as many records, where it does (``X-Total-Results``), have the
    checksums that are given, be whole under its compression, and be FASTA or UniRef XML to its end; then it is
    published as `target`. One that is not whole is fetched again. A broken connection is resumed, in this run or the
    next, where the server names the version of the file by a strong ETag, else started from zero: without one nobody
    knows whether the rest is that of the same file.

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
    max_gb : float, optional
        Gigabytes of the largest file that is taken.

    Raises
    ------
    UserError
        Where the address is none, holds a password, or serves no such file, and where another process downloads to
        `target`.
    """
    check_url(url)
    name = urlsplit(url).path.rpartition("/")[2] or database
    wanted = {"md5": md5, "sha256": sha256}
    with partial_download(Path(target), max_gb) as part:
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
    if "@" in parse_host(url):
        raise UserError("source.url holds a user's name or password, which would be recorded; expected one without")


def fetch_checked(url: str, name: str, part: PartialDownload, wanted: dict[str, str]) -> dict[str, Any]:
    """Fill `part` and check it; return what release.json says. What is not whole is fetched again, from zero."""

    def attempt() -> dict[str, Any]:
        fetch_rest(part, url, name, partial(describe, name=name))
        check_size(part, name)
        facts = part.note["facts"] | compute_digests(part, name)
        fault, joined = checksum_fault(facts, wanted), part.joined
        broken = content_fault(part, part.note["records"])
        if not fault and not broken:
            return facts
        part.restart({})
        # What was put together from several answers may be wrong where the server is right.
        if broken or joined:
            raise RetryableError(fault or broken)
        raise MirrorError(f"{name}: {fault}")

    if not is_file(url):
        # Where only the address is known beforehand; see `is_resumable`.
        part.drop_unless({"url": url, "md5": None})
        return with_retries(attempt, name, lambda: part.size)
    part.restart({})
    part.append(file_blocks(url), name, None)
    facts = compute_digests(part, name)
    if fault := checksum_fault(facts, wanted) or content_fault(part, None):
        raise MirrorError(f"{name}: {fault}")
    return facts


def check_size(part: PartialDownload, name: str) -> None:
    """Refuse a file that is longer than the server said; warn where it said nothing."""
    size = part.note["bytes"]
    if size is None:
        log.warning("%s: the server did not say how long the file is; %d bytes came", name, part.size)
    elif part.size > size:
        raise MirrorError(f"{name}: longer than the {size} bytes that the server announced")


def compute_digests(part: PartialDownload, name: str) -> dict[str, Any]:
    """Return size and digests of what has arrived, as release.json has them."""
    md5, sha256 = part.digests(name)
    return {"bytes": part.size, "md5": md5, "sha256": sha256}


def checksum_fault(facts: dict[str, Any], wanted: dict[str, str]) -> str:
    """Say which checksums are not as given; empty for none."""
    wrong = [key for key, value in wanted.items() if value != facts[key]]
    return "; ".join(f"expected {key} {wanted[key]} (source.{key}), got {facts[key]}" for key in wrong)


def describe(response: "requests.Response", name: str) -> dict[str, Any]:
    """Return what an answer says of its file: its size, its number of records, and its release, each None if unsaid."""
    check_one_page(response, name)
    size, records = header_number(response, "Content-Length"), header_number(response, "X-Total-Results")
    return {"bytes": size, "records": records, "facts": release_facts(response)}


def check_one_page(response: "requests.Response", name: str) -> None:
    """Refuse an answer that is the first page of several."""
    if "next" in response.links:
        raise MirrorError(
            f"{name}: the server gives its records page by page, and this is one page; name an address that gives all "
            "(of UniProt, /stream in place of /search)"
        )


def header_number(response: "requests.Response", header: str) -> int | None:
    """Return the number that an answer's header holds, if it does, and it is none of thousands of digits."""
    text = response.headers.get(header, "")
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else None


def release_facts(response: "requests.Response") -> dict[str, Any]:
    """Return what an answer says of its file's release."""
    headers = response.headers
    date = headers.get("X-UniProt-Release-Date") or headers.get("Last-Modified")
    return {"release": headers.get("X-UniProt-Release"), "date": date}


def content_fault(part: PartialDownload, records: int | None) -> str:
    """Say why a file cannot be read as `records` sequences from beginning to end; empty if it can."""
    part.handle.flush()
    count = 0
    last: Chunk | XmlChunk | None = None
    try:
        for chunk in read_any_chunks(part.path, CHUNK_BYTES):
            if isinstance(chunk, Chunk):
                check_chunk(part.path, chunk)
            count, last = count + chunk.n_entries, chunk
        # An answer that broke off lacks the end.
        if isinstance(last, XmlChunk):
            parse_chunk(part.path, last)
        elif last and b"\n" not in last.texts()[-1].strip():
            return f"its last record, {count:,}, has no sequence"
    except UserError as error:
        return str(error).replace(f"{part.path}: ", "").replace(f"{part.path} ", "the file ")
    if records not in (None, count):
        return f"{count:,} records came of the {records:,} that the server has by its X-Total-Results"
    return ""
