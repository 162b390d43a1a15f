"""Chunks that go to other processes through files."""

from pathlib import Path

import pytest
from embedome.sequences.chunk_spool import Spool
from embedome.sequences.fasta import Chunk
from embedome.sequences.uniref_xml import XmlChunk


def test_chunks_come_back_as_they_were_until_their_file_is_written_over(tmp_path: Path) -> None:
    batches = [
        [Chunk(1, 2, b">a\nMKV\n>b\nM\n"), Chunk(3, 1, b">c\nMW\n")],
        [XmlChunk(1, 1, b"<entry/>", b"<UniRef50>", b"</UniRef50>", False, 7)],
        [Chunk(4, 1, b">d\n" + 100_000 * b"MA\n")],
    ]
    with Spool(tmp_path, 2) as spool:
        waiting = []
        for batch in batches:
            waiting.append(spool.put(batch))
            # The last two that were put.
            for expected, spooled in zip(batches[: len(waiting)][-2:], waiting[-2:], strict=True):
                assert [each.fetch() for each in spooled] == expected
        assert not any(each.chunk.data for batch in waiting for each in batch)
    assert not list(tmp_path.iterdir())


def test_files_are_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError), Spool(tmp_path, 3) as spool:
        spool.put([Chunk(1, 1, b">a\nM\n"), Chunk(2, 1, None)])
    assert not list(tmp_path.iterdir())
