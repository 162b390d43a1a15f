"""Plain, gzip and zstandard files as blocks of bytes, digested as they are read.

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

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
# A frame, or one to be passed over, as pzstd writes it before each (RFC 8878, section 3.1).
ZSTD_MAGIC = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")


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

    open: Callable[[io.RawIOBase | IO[bytes]], IO[bytes]]
    """Open the stream of uncompressed bytes of a file that is open."""
    error: type[Exception]
    """Raised where the compressed data are damaged."""


def gzip_unpacker() -> Unpacker:
    """Return the unpacker for gzip, which works in a thread of its own."""
    from isal import igzip_threaded
    from isal.isal_zlib import IsalError

    open_gzip = partial(igzip_threaded.open, mode="rb", threads=1)
    return Unpacker(open_gzip, IsalError)  # type: ignore[arg-type]  # isal's stub has the class as an instance


def zstd_unpacker() -> Unpacker:
    """Return the unpacker for zstandard: of the standard library from Python 3.14 on, and before that its backport."""
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    return Unpacker(zstd.ZstdFile, zstd.ZstdError)


def find_unpacker(path: Path, magic: bytes) -> Unpacker | None:
    """Return the unpacker for a file with these first bytes; None where it is plain.

    Raises
    ------
    UserError
        Where the package for it is missing.
    """
    if magic.startswith(GZIP_MAGIC):
        name, package, make = "gzip", "isal", gzip_unpacker
    elif ZSTD_MAGIC.match(magic):
        name, package, make = "zstandard", "backports.zstd", zstd_unpacker
    else:
        return None
    try:
        return make()
    except ImportError as error:
        raise UserError(
            f"{path}: compressed with {name}, for which the package {package} is needed ({error}); install it, or "
            "decompress the file"
        ) from None


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
        magic = handle.read(4)
        handle.seek(0)
        if not magic:
            raise UserError(f"{path}: the file is empty; expected FASTA records")
        raw = Digested(handle, digest) if digest else handle
        unpacker = find_unpacker(path, magic)
        if unpacker is None:
            yield raw
            return
        with unpacker.open(raw) as stream:
            try:
                yield stream
            except EOFError:
                raise UserError(
                    f"{path}: the compressed data end too early, or something else follows them; download or copy the "
                    "file again"
                ) from None
            except (unpacker.error, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                if "too much memory" in str(error):
                    raise UserError(f"{path}: compressed with zstd --long; compress it again without") from None
                raise UserError(f"{path}: the compressed data are damaged ({error}); copy the file again") from None


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file.

    Raises
    ------
    UserError
        Where it is missing, is not a regular file, or cannot be read.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise UserError(f"{path} is {what}; expected a FASTA file")
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a FASTA file") from None


def read_blocks(path: str | os.PathLike, digest: "hashlib._Hash | None" = None) -> Iterator[bytes]:
    """Yield a file's uncompressed bytes in blocks; parameters and errors as of `open_decompressed`."""
    with open_decompressed(path, digest) as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block
