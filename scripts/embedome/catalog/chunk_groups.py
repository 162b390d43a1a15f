"""Chunks of a file in groups, each the text of a sorted run; bounded in bytes and in entries."""

from collections.abc import Iterable, Iterator

from embedome.sequences.fasta import Chunk, split_chunk
from embedome.sequences.uniref_xml import XmlChunk

# At most, of entries of next to nothing: each is an object for a while.
RUN_ENTRIES, CHUNK_ENTRIES = 400_000, 100_000


def group_chunks(chunks: Iterable[Chunk | XmlChunk], size: int) -> Iterator[list[Chunk | XmlChunk]]:
    """Group chunks to `size` bytes or a little more, and not too many entries."""
    group: list[Chunk | XmlChunk] = []
    for chunk in small_chunks(chunks):
        group.append(chunk)
        if sum(len(each.data) for each in group) >= size or sum(each.n_entries for each in group) >= RUN_ENTRIES:
            yield group
            group = []
    if group:
        yield group


def small_chunks(chunks: Iterable[Chunk | XmlChunk]) -> Iterator[Chunk | XmlChunk]:
    """Split chunks of FASTA with very many entries."""
    for chunk in chunks:
        if isinstance(chunk, Chunk):
            yield from split_chunk(chunk, CHUNK_ENTRIES)
        else:
            yield chunk
