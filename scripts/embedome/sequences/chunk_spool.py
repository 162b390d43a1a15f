"""Chunks of text on their way to other processes: through files, as a pipe takes four times as long.

The files are written over and over, so that they stay in the page cache and use little of the disk.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

from embedome.sequences.fasta import Chunk
from embedome.sequences.uniref_xml import XmlChunk


class Spooled(NamedTuple):
    """A chunk whose text is in a file."""

    chunk: Chunk | XmlChunk
    """Without its data."""
    path: Path
    offset: int
    size: int

    def fetch(self) -> Chunk | XmlChunk:
        """Return the chunk with its data."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return self.chunk._replace(data=file.read(self.size))


class Spool:
    """Puts chunks into files that are gone when the block ends.

    Parameters
    ----------
    folder : Path
    files : int
        Number of files used in rotation: a chunk is overwritten after `files` more calls of `put`.
    """

    def __init__(self, folder: Path, files: int) -> None:
        self.paths = [folder / f"spool-{number}" for number in range(files)]
        self.puts = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.files = [stack.enter_context(open(path, "wb")) for path in self.paths]
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()
        for path in self.paths:
            path.unlink()

    def put(self, chunks: Sequence[Chunk | XmlChunk]) -> list[Spooled]:
        """Put chunks into the next file."""
        number = self.puts % len(self.files)
        self.puts += 1
        file = self.files[number]
        file.seek(0)
        spooled = []
        for chunk in chunks:
            spooled.append(Spooled(chunk._replace(data=b""), self.paths[number], file.tell(), len(chunk.data)))
            file.write(chunk.data)
        file.flush()
        return spooled
