"""Sequence files of either format, recognised by their first bytes."""

import hashlib
import os
from collections.abc import Iterator
from itertools import chain

from embedome.sequences.compressed import read_blocks
from embedome.sequences.fasta import BYTE_ORDER_MARK, Chunk, cut_chunks
from embedome.sequences.uniref_xml import XmlChunk, read_xml_chunks


def is_blank(path: str | os.PathLike) -> bool:
    """Return whether a file holds white space only, or nothing.

    Raises
    ------
    UserError
        As `compressed.read_blocks`, but for empty files.
    """
    try:
        return not os.stat(path).st_size or not any(block.strip() for block in read_blocks(path))
    except FileNotFoundError:
        return False


def read_any_chunks(
    path: str | os.PathLike, size: int, digest: "hashlib._Hash | None" = None
) -> Iterator[Chunk | XmlChunk]:
    """Yield a FASTA or UniRef XML file, plain or compressed, in chunks of `size` bytes or a little more.

    `digest` is as of `compressed.open_decompressed`.

    Raises
    ------
    UserError
        As `fasta.read_chunks` and `uniref_xml.read_xml_chunks`.
    """
    blocks = read_blocks(path, digest)
    head = b""
    for block in blocks:
        if head := block.removeprefix(BYTE_ORDER_MARK).lstrip():
            break
    reader = read_xml_chunks if head.startswith(b"<") else cut_chunks
    yield from reader(path, chain([head], blocks), size)
