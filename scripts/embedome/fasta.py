"""FASTA as a stream of raw entries: plain, gzip or zstandard, any line ends, memory of one block."""

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, NamedTuple

import numpy as np

from embedome.common.errors import UserError

BLOCK_BYTES = 1 << 20
# The longest protein known has about 45,000 residues (PKZILLA-1, Fallon et al. 2024): an entry of 64 MiB is not one.
MAX_ENTRY_BYTES = 64 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GZIP_MAGIC = b"\x1f\x8b"
# A frame, or one to be passed over, as pzstd writes it before each (RFC 8878, section 3.1).
ZSTD_MAGIC = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")


class Entry(NamedTuple):
    """One FASTA entry as it stands in the file."""

    number: int
    """Position in the file, from 1."""
    header: bytes
    """The header line without ``>`` and line end."""
    body: bytes
    """The lines below it, line ends included."""


class Chunk(NamedTuple):
    """Whole entries as they stand in the file."""

    first: int
    """Position of the first in the file, from 1."""
    count: int
    """Number of entries."""
    data: bytes
    """Their text, from the first ``>``."""

    def texts(self) -> list[bytes]:
        """The text of each entry, without its ``>``."""
        return self.data[1:].split(b"\n>")


class Digested(io.RawIOBase):
    """A file that adds to a digest what is read of it."""

    def __init__(self, file: IO[bytes], digest: "hashlib._Hash") -> None:
        self.file, self.digest = file, digest

    def readable(self) -> bool:
        """As of any file that is read."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read, and digest."""
        count = self.file.readinto(buffer)
        self.digest.update(memoryview(buffer)[:count])
        return count


def load_zstd() -> ModuleType:
    """The standard library's module from Python 3.14 on, and before that its backport."""
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    return zstd


@contextmanager
def open_decompressed(path: str | os.PathLike, digest: "hashlib._Hash | None" = None) -> Iterator[IO[bytes]]:
    """Open a file for reading its uncompressed bytes; the first bytes tell the compression, not the name.

    Parameters
    ----------
    path : path
    digest : hashlib object, optional
        Gets the file's own bytes as they are read: once the stream has ended, all of them.

    Raises
    ------
    UserError
        Where the file is missing, is no regular file, cannot be read, or is empty.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise UserError(f"{path} is {what}; expected a FASTA file")
    try:
        handle = open(path, "rb")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a FASTA file") from None
    with handle:
        magic = handle.read(4)
        handle.seek(0)
        if not magic:
            raise UserError(f"{path}: the file is empty; expected FASTA records")
        raw = Digested(handle, digest) if digest else handle
        if magic.startswith(GZIP_MAGIC):
            from isal import igzip_threaded

            with igzip_threaded.open(raw, "rb", threads=1) as stream:
                yield stream
        elif ZSTD_MAGIC.match(magic):
            with load_zstd().ZstdFile(raw) as stream:
                yield stream
        else:
            yield raw


def read_blocks(path: str | os.PathLike, digest: "hashlib._Hash | None" = None) -> Iterator[bytes]:
    """Yield a file's uncompressed bytes in blocks; parameters as of `open_decompressed`.

    Raises
    ------
    UserError
        As `open_decompressed`, and where the compressed data are cut short or damaged.
    """
    from isal.isal_zlib import IsalError

    zstd_error = load_zstd().ZstdError

    with open_decompressed(path, digest) as stream:
        try:
            while block := stream.read(BLOCK_BYTES):
                yield block
        except EOFError:
            raise UserError(
                f"{path}: the compressed data end too early, or something else follows them; download or copy the "
                "file again"
            ) from None
        except (IsalError, zstd_error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            if "too much memory" in str(error):
                raise UserError(f"{path}: compressed with zstd --long; compress it again without") from None
            raise UserError(f"{path}: the compressed data are damaged ({error}); copy the file again") from None


def read_chunks(path: str | os.PathLike, size: int) -> Iterator[Chunk]:
    """Yield a FASTA file in chunks of whole entries, each of `size` bytes or a little more.

    Blank lines and a byte order mark before the first entry are passed over.

    Raises
    ------
    UserError
        As `read_blocks`; where the first line is no header, and where an entry is longer than 64 MiB.
    """
    return cut_chunks(path, read_blocks(path), size)


def cut_chunks(path: str | os.PathLike, blocks: Iterable[bytes], size: int) -> Iterator[Chunk]:
    """As `read_chunks`, of a file whose uncompressed bytes are given."""
    first, held, n_held = 1, [], 0
    for block in blocks:
        text = block if held else first_text(path, block)
        if not text:
            continue
        held.append(text)
        n_held += len(text)
        # A boundary between two blocks is passed over: the next one is as good.
        if n_held < size or (cut := text.rfind(b"\n>")) < 0:
            check_length(path, first, held, n_held, size)
            continue
        chunk = make_chunk(first, [*held[:-1], text[:cut]])
        yield chunk
        first += chunk.count
        held, n_held = [text[cut + 1 :]], len(text) - cut - 1
    if not held:
        raise UserError(f"{path}: the file holds white space only; expected FASTA records")
    yield make_chunk(first, held)


def make_chunk(first: int, texts: list[bytes]) -> Chunk:
    """Join whole entries, counted from `first`."""
    data = b"".join(texts)
    text = np.frombuffer(data, np.uint8)
    # Twice as fast as data.count(b"\n>"); the first one begins the data.
    heads = np.flatnonzero(text == ord(">"))[1:]
    return Chunk(first, int(np.count_nonzero(text[heads - 1] == ord("\n"))) + 1, data)


def check_length(path: str | os.PathLike, first: int, held: list[bytes], n_held: int, size: int) -> None:
    """Refuse what would not fit the memory: text in which no entry ends."""
    if n_held > MAX_ENTRY_BYTES + size:
        last = first + make_chunk(first, held).count - 1
        raise UserError(
            f"{path}: record {last} is longer than {MAX_ENTRY_BYTES >> 20} MiB; is this a protein FASTA file?"
        )


def read_entries(path: str | os.PathLike) -> Iterator[Entry]:
    """Yield the entries of a FASTA file in file order; lines may end in LF or CR LF.

    Raises
    ------
    UserError
        As `read_chunks`, where the line ends are bare carriage returns, and where a ``>`` stands within a sequence.
        Names the file and the entry.
    """
    for chunk in read_chunks(path, BLOCK_BYTES):
        for number, text in enumerate(chunk.texts(), chunk.first):
            yield split_entry(path, number, text)


def first_text(path: str | os.PathLike, block: bytes) -> bytes:
    """What of a file's first block is FASTA; empty where it is white space only."""
    data = block.removeprefix(BYTE_ORDER_MARK).lstrip()
    if data and data[:1] != b">":
        line = data.split(b"\n", 1)[0][:40]
        raise UserError(f"{path}: the file begins with {line!r}; expected a FASTA header, a line that begins with '>'")
    return data


def split_entry(path: str | os.PathLike, number: int, text: bytes) -> Entry:
    """Split an entry's text, without its ``>``, into header and body."""
    header, _, body = text.partition(b"\n")
    header = header.rstrip(b"\r")
    if b"\r" in header:
        raise UserError(
            f"{path}: record {number} has bare carriage returns as line ends; "
            "convert the file, e.g. with tr '\\r' '\\n'"
        )
    if b">" in body:
        # The header of another record, which would be lost without being counted.
        raise UserError(
            f"{path}: record {number} has a '>' in its sequence; each record must begin on a line of its own. Put "
            "files together with a line end between them, and convert bare carriage returns, e.g. with tr '\\r' '\\n'"
        )
    return Entry(number, header, body)


def write_entry(stream: io.BufferedIOBase | IO[bytes], name: str, description: str, sequence: bytes) -> None:
    """Write one entry, the sequence on one line."""
    header = f"{name} {description}" if description else name
    stream.write(b">%s\n%s\n" % (header.encode(), sequence))
