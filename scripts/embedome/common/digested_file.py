"""A file whose SHA-256 is known once it is written, without reading it back."""

import hashlib
from typing import BinaryIO


class DigestedFile:
    """A file, for pyarrow too, that digests what is written to it.

    Parameters
    ----------
    file : BinaryIO
        Written from its beginning to its end.

    Attributes
    ----------
    sha256 : hashlib object
        Of what was written so far.
    """

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, block: bytes) -> int:
        """Write a block; return its length."""
        self.sha256.update(block)
        return self.file.write(block)

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()
