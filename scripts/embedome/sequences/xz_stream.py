"""The stream of an xz file's uncompressed bytes, in bounded memory: lzma.LZMAFile takes windows of any size."""

import io
import lzma
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_BYTES = 1 << 16
# xz -9 takes 65 MB.
MOST_MEMORY = 256 << 20


class XzStream(io.RawIOBase):
    """Reads the streams of an xz file one after the other (The .xz File Format 1.2, section 2).

    Raises
    ------
    EOFError
        Where the last one is cut short.
    lzma.LZMAError
        Where the data are damaged, or want more memory than `MOST_MEMORY`.
    """

    def __init__(self, file: io.RawIOBase | IO[bytes]) -> None:
        self.file = file
        self.decoder = self.begin()
        self.data = b""

    def begin(self) -> lzma.LZMADecompressor:
        """Return what decodes a stream."""
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY)

    def readable(self) -> bool:
        """Return whether the file can be read, as of any file: yes."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer, or a part of it; return its bytes, 0 at the end."""
        view = memoryview(buffer)
        while len(view):
            if self.decoder.eof and not self.next_stream():
                return 0
            if self.decoder.needs_input and not self.data:
                self.data = self.file.read(READ_BYTES) or b""
                if not self.data:
                    raise EOFError("the last stream is cut short")
            found = self.decoder.decompress(self.data, len(view))
            self.data = b""
            if found:
                view[: len(found)] = found
                return len(found)
        return 0

    def next_stream(self) -> bool:
        """Begin the next stream, after zeros that fill up between streams; return whether there is one."""
        self.data = self.decoder.unused_data.lstrip(b"\0")
        while not self.data:
            block = self.file.read(READ_BYTES)
            if not block:
                return False
            self.data = block.lstrip(b"\0")
        self.decoder = self.begin()
        return True
