"""FASTA as a stream of raw entries: plain or compressed, any line ends, memory of one block."""

import io
import os
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.errors import UserError
from embedome.sequences.compressed import BLOCK_BYTES, read_blocks
from embedome.sequences.sequence_lines import strange_line

# The longest protein known has about 45,000 residues (PKZILLA-1, Fallon et al. 2024): an entry of 64 MiB is not one.
MAX_ENTRY_BYTES = 64 << 20
SHOWN_BYTES = 80
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class FastaEntry(NamedTuple):
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
    n_entries: int
    """Number of entries."""
    data: bytes
    """Their text, from the first ``>``."""

    def texts(self) -> list[bytes]:
        """Return the text of each entry, without its ``>``."""
        return self.data[1:].split(b"\n>")


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
    """Cut a file's uncompressed bytes into chunks, as `read_chunks` does."""
    first, n_held = 1, 0
    held: list[bytes] = []
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
        first += chunk.n_entries
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


def split_chunk(chunk: Chunk, most: int) -> Iterator[Chunk]:
    """Yield a chunk in chunks of `most` entries at most."""
    if chunk.n_entries <= most:
        yield chunk
        return
    text = np.frombuffer(chunk.data, np.uint8)
    heads = np.flatnonzero(text == ord(">"))
    heads = heads[(heads == 0) | (text[heads - 1] == ord("\n"))]
    starts = [*heads[::most].tolist(), len(text) + 1]
    for number, (start, end) in enumerate(pairwise(starts)):
        first = number * most
        # Without the line end before the next entry, as chunks are cut.
        yield Chunk(chunk.first + first, min(most, chunk.n_entries - first), chunk.data[start : end - 1])


def check_length(path: str | os.PathLike, first: int, held: list[bytes], n_held: int, size: int) -> None:
    """Refuse what would not fit the memory: text in which no entry ends."""
    if n_held > MAX_ENTRY_BYTES + size:
        last = first + make_chunk(first, held).n_entries - 1
        raise UserError(
            f"{path}: record {last} is longer than {MAX_ENTRY_BYTES >> 20} MiB; is this a protein FASTA file?"
        )


def read_entries(path: str | os.PathLike) -> Iterator[FastaEntry]:
    """Yield the entries of a FASTA file in file order; lines may end in LF or CR LF.

    Raises
    ------
    UserError
        As `read_chunks`, where the line ends are bare carriage returns, and where a ``>`` or a line that is no sequence
        (see `sequence_lines`) stands below a header. Names the file and the entry.
    """
    for chunk in read_chunks(path, BLOCK_BYTES):
        for number, text in enumerate(chunk.texts(), chunk.first):
            yield split_entry(path, number, text)


def first_text(path: str | os.PathLike, block: bytes) -> bytes:
    """Return what of a file's first block is FASTA; empty where it is white space only."""
    data = block.removeprefix(BYTE_ORDER_MARK).lstrip()
    if data and data[:1] != b">":
        line = data.split(b"\n", 1)[0][:SHOWN_BYTES]
        raise UserError(f"{path}: the file begins with {line!r}; expected a FASTA header, a line that begins with '>'")
    return data


def split_entry(path: str | os.PathLike, number: int, text: bytes) -> FastaEntry:
    """Split an entry's text, without its ``>``, into header and body."""
    header, _, body = text.partition(b"\n")
    header = header.rstrip(b"\r")
    if b"\r" in header:
        raise UserError(
            f"{path}: record {number} has bare carriage returns as line ends; "
            "convert the file, e.g. with tr '\\r' '\\n'"
        )
    if b">" in body and b"<" not in body:
        # The header of another record, which would be lost without being counted.
        raise UserError(
            f"{path}: record {number} has a '>' in its sequence; each record must begin on a line of its own. Put "
            "files together with a line end between them, and convert bare carriage returns, e.g. with tr '\\r' '\\n'"
        )
    if strange := strange_line(body):
        # Whatever wrote it broke off: the rest of the sequence is missing.
        line, found = strange
        raise UserError(
            f"{path}: record {number}: line {line} below its header is no sequence, {found[:SHOWN_BYTES]!r}; is the "
            "file whole? Download or make it again. A sequence is letters, without numbers, and without blanks unless "
            "in blocks of ten"
        )
    return FastaEntry(number, header, body)


def write_entry(stream: io.BufferedIOBase | IO[bytes], name: str, description: str, sequence: bytes) -> None:
    """Write one entry, the sequence on one line."""
    header = f"{name} {description}" if description else name
    stream.write(b">%s\n%s\n" % (header.encode(), sequence))


def join_text(*parts: pa.Array | pa.Scalar) -> tuple[memoryview, np.ndarray]:
    """Join texts row by row, the last part between them; return the bytes and where each of n begins, int64 [n + 1]."""
    rows = pc.binary_join_element_wise(*parts)
    _, offsets, data = rows.buffers()
    return memoryview(data), np.frombuffer(offsets, np.int64, len(rows) + 1)
