"""Old releases of UniRef: one file taken out of a release's archive, which passes by as a stream.

UniProt keeps an old release of UniRef as one archive, ``uniref<release>.tar.gz``, with a RELEASE.metalink beside it.
The archive holds a tar file for each database, and that, a README and a release note apart, ``<database>.xml.gz``.
Only the file that is wanted is written to disk. What is found is copied, never extracted under the archive's own
names, so that these cannot lead anywhere.

References
----------
Folders and names are those of https://ftp.uniprot.org/pub/databases/uniprot/previous_releases.
"""

import hashlib
import io
import logging
import re
import tarfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from gzip import BadGzipFile
from typing import TYPE_CHECKING, Any

from embedome.common.errors import UserError
from embedome.common.inputs import BoundedHeader
from embedome.common.log import Progress
from embedome.sequences.compressed import GZIP_MAGIC
from embedome.sources.http import (
    BLOCK_BYTES,
    MirrorError,
    Retries,
    RetryableError,
    open_rest,
    read_body,
    read_validators,
)
from embedome.sources.mirrors import (
    METALINK,
    Expected,
    file_blocks,
    is_file,
    join_url,
    parse_metalink,
    read_metalink,
    recorded_url,
)
from embedome.sources.partial_download import PartialDownload

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

log = logging.getLogger(__name__)


# Newer releases are in the first; the first of each year are kept in the second.
BRANCHES = ("previous_releases", "previous_major_releases")
NAMES_LISTED = 12
TAR_BUFFER_BYTES = 1 << 18


class ChangedError(Exception):
    """A server cannot go on with the file that was begun."""


class DamagedError(Exception):
    """An archive cannot be read."""


def archive_folders(mirrors: Sequence[str], database: str, release: str) -> list[str]:
    """List the folders in which a release's archive may be.

    Mirrors are named by the folder of the current release or by that of all of UniProt.

    Examples
    --------
    >>> archive_folders(["https://host/uniprot/uniref/uniref50"], "uniref50", "2024_05")[0]
    'https://host/uniprot/previous_releases/release-2024_05/uniref'
    """
    current = re.compile(rf"(/current_release)?(/uniref(/{re.escape(database)})?)?/*$")
    roots = dict.fromkeys(current.sub("", mirror) for mirror in mirrors)
    return [f"{root}/{branch}/release-{release}/uniref" for root in roots for branch in BRANCHES]


def fetch_archived(folder: str, release: str, database: str, name: str, part: PartialDownload) -> dict[str, Any]:
    """Fill `part` with a file out of a release's archive; return what release.json says.

    The whole archive is read and must have the size and md5 of the metalink. A broken connection is continued at the
    byte that was reached; a new run starts from zero, as compressed data cannot be read from the middle.

    Parameters
    ----------
    folder : str
        URL of the folder with the archive and its metalink.
    release : str
    database : str
        Whose file is wanted.
    name : str
        Of that file.
    part : PartialDownload

    Returns
    -------
    dict
        url (of the archive), database, release, date, bytes, md5 and sha256 of the file, member (its path in the
        archive), and archive: file, bytes, md5, sha256.

    Raises
    ------
    MirrorError
        Where there is no such archive, and where it is not what the metalink says.
    UserError
        Where it is whole and holds no such file.
    """
    expected = parse_metalink(read_metalink(join_url(folder, METALINK)), f"uniref{release}.tar.gz")
    url = join_url(folder, expected.name)
    for _ in range(2):
        part.restart({})
        stream = ArchiveStream(url, expected)
        try:
            with stream:
                member, others = copy_member(stream, database, name, part)
                stream.drain()
            failure = stream.fault()
            if not failure and not member:
                # Whole and right: other mirrors have the same archive.
                raise UserError(missing(expected, name, others))
        except ChangedError as error:
            failure = str(error)
        except DamagedError as error:
            failure = f"{expected.name}: damaged before byte {stream.size} ({error})"
        if not failure:
            size = part.size
            md5, sha256 = part.digests(name)
            facts: dict[str, Any] = {"url": recorded_url(url), "database": database, "release": release}
            facts |= {"date": expected.date, "bytes": size, "md5": md5, "sha256": sha256, "member": member}
            return facts | {"archive": {"file": expected.name, **stream.digests()}}
        # What was put together from several answers may be wrong where the mirror is right: once more, from zero.
        if not stream.joined:
            break
        log.warning("%s; starting from zero", failure)
    part.restart({})
    raise MirrorError(failure)


def missing(expected: Expected, name: str, others: Sequence[str]) -> str:
    """Say that an archive holds no such file."""
    found = ", ".join(others) or "no file"
    return f"{expected.name}: holds no {name}, but {found}; see source.database and source.format"


def copy_member(archive: io.RawIOBase, database: str, name: str, part: PartialDownload) -> tuple[str | None, list[str]]:
    """Copy the first file of a name into `part`, out of an archive or of the database's tar file in it.

    Returns
    -------
    member : str or None
        Where it was, as ``<tar file>/<file>``.
    others : list of str
        The first few other files.
    """
    nested = re.compile(rf"{re.escape(database)}\.(tar|tar\.gz|tgz)")
    others: list[str] = []
    with readable_tar(archive) as outer:
        for path, file in regular_files(outer):
            if path == name:
                copy(file, part)
                return path, others
            if nested.fullmatch(path):
                with readable_tar(file) as inner:
                    for inner_path, inner_file in regular_files(inner):
                        if inner_path == name:
                            copy(inner_file, part)
                            return f"{path}/{name}", others
                        note(f"{path}/{inner_path}", others)
            else:
                note(path, others)
    return None, others


def note(path: str, others: list[str]) -> None:
    """List a file for a message, its name in printable characters."""
    if len(others) < NAMES_LISTED:
        others.append(ascii(path)[1:-1])


@contextmanager
def readable_tar(stream: io.RawIOBase | io.BufferedReader) -> Iterator[tarfile.TarFile]:
    """Open a tar file, or one under gzip, that is read once, front to back.

    Raises
    ------
    DamagedError
        Also where what is read of it turns out to be damaged.
    """
    from isal import igzip
    from isal.isal_zlib import IsalError

    try:
        buffered = io.BufferedReader(stream, BLOCK_BYTES)
        packed = buffered.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)
        plain = igzip.IGzipFile(fileobj=buffered, mode="rb") if packed else buffered
        with tarfile.open(fileobj=plain, mode="r|", bufsize=TAR_BUFFER_BYTES, tarinfo=BoundedHeader) as tar:
            yield tar
        buffered.detach()  # or it would close the stream with itself
    except (tarfile.TarError, EOFError, IsalError, BadGzipFile) as error:  # type: ignore[misc]  # isal's stub is wrong
        raise DamagedError(" ".join(str(error).split())) from None


def regular_files(tar: tarfile.TarFile) -> Iterator[tuple[str, io.BufferedReader]]:
    """Yield the last part of the name of each regular file, and the file; links and devices are passed over."""
    for member in tar:
        if member.isreg():
            file = tar.extractfile(member)
            assert isinstance(file, io.BufferedReader), "a regular file has bytes"
            yield member.name.rpartition("/")[2], file


def copy(file: io.BufferedReader, part: PartialDownload) -> None:
    """Copy a file into a part."""
    while block := file.read(BLOCK_BYTES):
        part.handle.write(block)


class ArchiveStream(io.RawIOBase):
    """An archive's bytes from a file or a server, digested as they pass by.

    A broken connection is continued at the byte that was reached, as long as the server still has the same file.
    """

    def __init__(self, url: str, expected: Expected) -> None:
        super().__init__()
        self.url, self.expected = url, expected
        self.size = 0
        self.joined = False  # whether the bytes come from more than one answer
        self.md5, self.sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        self.blocks = self.count(file_blocks(url) if is_file(url) else self.server_blocks())
        self.rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer, or a part of it; 0 at the end."""
        self.rest = self.rest or next(self.blocks, b"")
        view = memoryview(buffer)
        count = min(len(view), len(self.rest))
        view[:count], self.rest = self.rest[:count], self.rest[count:]
        return count

    def drain(self) -> None:
        """Read to the end."""
        for _ in self.blocks:
            pass

    def close(self) -> None:
        """Close the connection."""
        self.blocks.close()
        super().close()

    def count(self, blocks: Iterable[bytes]) -> Generator[bytes]:
        """Pass blocks on, and at most one more than belongs to the archive."""
        with Progress(f"download {self.expected.name}", "bytes", self.expected.bytes) as progress:
            for block in blocks:
                self.size += len(block)
                self.md5.update(block)
                self.sha256.update(block)
                progress.update(len(block))
                if self.size > self.expected.bytes:
                    raise MirrorError(f"{self.expected.name}: longer than {self.expected.bytes} bytes ({METALINK})")
                yield block

    def server_blocks(self) -> Iterator[bytes]:
        """Yield the blocks of a file on a server, over as many connections as it takes."""
        name, end = self.expected.name, self.expected.bytes
        retries = Retries(name, lambda: self.size)
        known: dict[str, str] = {}
        while self.size < end:
            start = self.size
            try:
                with open_rest(self.url, name, start, end, known) as (response, begins):
                    self.joined = start > 0
                    if begins != start:
                        raise ChangedError(f"{name}: the server could not go on at byte {start}")
                    if not start:
                        self.expected.check_answer(response)
                        known = read_validators(response)
                    yield from read_body(response)
                failure = RetryableError(f"the connection ended after {self.size} of {end} bytes")
            except RetryableError as error:
                failure = error
            if self.size < end:
                retries.after(failure)

    def fault(self) -> str | None:
        """Return what is wrong with the archive, read to its end; None for nothing."""
        if (self.size, self.md5.hexdigest()) == (self.expected.bytes, self.expected.md5):
            return None
        return self.expected.differs_from(self.size, self.md5.hexdigest())

    def digests(self) -> dict[str, Any]:
        """Return size and digests of what was read."""
        return {"bytes": self.size, "md5": self.md5.hexdigest(), "sha256": self.sha256.hexdigest()}
