"""Plain and compressed files as blocks of bytes, digested as they are read.

The unpacker of a file is imported when one comes that needs it: plain files are read without these packages.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from embedome.common.errors import UserError
from embedome.common.inputs import check_input

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
# A frame, or one to be passed over, as pzstd writes it before each (RFC 8878, section 3.1).
ZSTD_MAGIC = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
ZIP_MAGIC = b"PK\x03\x04"
# Bytes at the beginning that tell what a file is: the longest mark, that of a tar file, ends at 263.
HEAD_BYTES = 512


class Digested(io.RawIOBase):
    """A file that adds to a digest what is read of it."""

    def __init__(self, file: io.BufferedReader, digest: "hashlib._Hash") -> None:
        self.file, self.digest = file, digest

    def readable(self) -> bool:
        """Return whether the file can be read, as of any file: yes."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer, or a part of it, and digest that; return its bytes."""
        count = self.file.readinto(buffer)
        self.digest.update(memoryview(buffer)[:count])
        return count


class Unpacker(NamedTuple):
    """What unpacks a compressed file."""

    open: Callable[[io.RawIOBase | IO[bytes]], io.RawIOBase | IO[bytes]]
    """Open the stream of uncompressed bytes of a file that is open."""
    errors: tuple[type[Exception], ...]
    """Raised where the compressed data are damaged; beside OSError without a number."""


def gzip_unpacker() -> Unpacker:
    """Return the unpacker for gzip, which works in a thread of its own."""
    from isal import igzip_threaded
    from isal.isal_zlib import IsalError

    open_gzip = partial(igzip_threaded.open, mode="rb", threads=1)
    return Unpacker(open_gzip, (IsalError,))  # type: ignore[arg-type]  # isal's stub has the class as an instance


def zstd_unpacker() -> Unpacker:
    """Return the unpacker for zstandard: of the standard library from Python 3.14 on, and before that its backport."""
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    return Unpacker(zstd.ZstdFile, (zstd.ZstdError,))


def bz2_unpacker() -> Unpacker:
    """Return the unpacker for bzip2."""
    import bz2

    return Unpacker(bz2.BZ2File, ())


def xz_unpacker() -> Unpacker:
    """Return the unpacker for xz."""
    import lzma

    from embedome.sequences.xz_stream import XzStream

    return Unpacker(XzStream, (lzma.LZMAError,))


def zip_unpacker() -> Unpacker:
    """Return the unpacker for the one file of a zip archive."""
    import zipfile
    import zlib

    from embedome.sequences.zip_member import open_member

    return Unpacker(open_member, (zlib.error, zipfile.BadZipFile))


UNPACKERS: tuple[tuple[str, re.Pattern[bytes], str, Callable[[], Unpacker]], ...] = (
    ("gzip", re.compile(re.escape(GZIP_MAGIC)), "isal", gzip_unpacker),
    ("zstandard", ZSTD_MAGIC, "backports.zstd", zstd_unpacker),
    ("bzip2", re.compile(rb"BZh[1-9]"), "bz2", bz2_unpacker),
    ("xz", re.compile(rb"\xfd7zXZ\x00"), "lzma", xz_unpacker),
    ("zip", re.compile(re.escape(ZIP_MAGIC)), "zlib", zip_unpacker),
)
# What is not read: by its first bytes.
OTHERS: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("a tar archive", re.compile(rb".{257}ustar", re.DOTALL)),
    ("a 7z archive", re.compile(rb"7z\xbc\xaf\x27\x1c")),
    ("a rar archive", re.compile(rb"Rar!\x1a\x07")),
    ("data compressed with lz4", re.compile(rb"\x04\x22\x4d\x18")),
    ("data compressed with compress", re.compile(rb"\x1f\x9d")),
    ("data compressed with lzip", re.compile(rb"LZIP")),
    ("a Parquet file", re.compile(rb"PAR1")),
    ("an HDF5 file", re.compile(rb"\x89HDF\r\n\x1a\n")),
    ("a BAM file", re.compile(rb"BAM\x01")),
)


def find_unpacker(path: Path, magic: bytes) -> Unpacker | None:
    """Return the unpacker for a file with these first bytes; None where it is plain.

    Raises
    ------
    UserError
        Where the package for it is missing.
    """
    for name, pattern, package, make in UNPACKERS:
        if pattern.match(magic):
            try:
                return make()
            except ImportError as error:
                raise UserError(
                    f"{path}: compressed with {name}, for which the package {package} is needed ({error}); install it, "
                    "or decompress the file"
                ) from None
    return None


def check_unpacked(path: Path, head: bytes) -> None:
    """Refuse what is no text, by its first bytes: an archive of several files, a file that is compressed twice."""
    packed = [(f"a file compressed with {name}", pattern) for name, pattern, *_ in UNPACKERS]
    for name, pattern in (*OTHERS, *packed):
        if pattern.match(head):
            raise UserError(f"{path}: holds {name}; unpack it, and name the FASTA file")


@contextmanager
def open_decompressed(
    path: str | os.PathLike, digest: "hashlib._Hash | None" = None
) -> Iterator[io.RawIOBase | IO[bytes]]:
    """Open a file for reading its uncompressed bytes; the first bytes decide on the compression, not the name.

    Parameters
    ----------
    path : path
    digest : hashlib object, optional
        Gets the file's own bytes as they are read: once the stream has ended, all of them.

    Raises
    ------
    UserError
        Where the file is missing, is not a regular file, cannot be read, or is empty; where the package that unpacks it
        is missing; and where the compressed data turn out to be cut short or damaged.
    """
    path = Path(path)
    with open_regular(path) as handle:
        magic = handle.read(HEAD_BYTES)
        handle.seek(0)
        if not magic:
            raise UserError(f"{path}: the file is empty; expected FASTA records")
        unpacker = find_unpacker(path, magic)
        if digest and magic.startswith(ZIP_MAGIC):
            # Its table of contents is at its end, and so its bytes are not read in their order.
            while block := handle.read(BLOCK_BYTES):
                digest.update(block)
            digest = None
        raw = Digested(handle, digest) if digest else handle
        if unpacker is None:
            yield raw
            return
        damaged: tuple[type[Exception], ...] = (*unpacker.errors, OSError)
        try:
            with unpacker.open(raw) as stream:
                yield stream
        except EOFError:
            raise UserError(
                f"{path}: the compressed data end too early, or something else follows them; download or copy the "
                "file again"
            ) from None
        except damaged as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            if "too much memory" in str(error) or "Memory usage limit" in str(error):
                raise UserError(
                    f"{path}: unpacking it takes too much memory, as of zstd --long; compress it again without"
                ) from None
            raise UserError(f"{path}: the compressed data are damaged ({error}); copy the file again") from None


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file.

    Raises
    ------
    UserError
        Where it is missing, is not a regular file, or cannot be read.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected a FASTA file: name those in it, {path}/*.fasta")
    check_input(path, "a FASTA file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a FASTA file") from None


def read_blocks(path: str | os.PathLike, digest: "hashlib._Hash | None" = None) -> Iterator[bytes]:
    """Yield a file's uncompressed bytes in blocks; parameters and errors as of `open_decompressed`.

    Raises
    ------
    UserError
        Also as `check_unpacked`.
    """
    with open_decompressed(path, digest) as stream:
        head = stream.read(BLOCK_BYTES)
        check_unpacked(Path(path), head[:HEAD_BYTES])
        if head:
            yield head
        while block := stream.read(BLOCK_BYTES):
            yield block
