"""Plain, gzip and zstandard files as blocks of bytes, digested as they are read."""

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO

from embedome.common.errors import UserError

BLOCK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
# A frame, or one to be passed over, as pzstd writes it before each (RFC 8878, section 3.1).
ZSTD_MAGIC = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")


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
