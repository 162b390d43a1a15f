"""Records as columns, against `check_entry` on one entry at a time."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from embedome.common.errors import UserError
from embedome.sequences.fasta import read_chunks, read_entries
from embedome.sequences.record_columns import check_chunk
from embedome.sequences.records import Record, check_entry
from hypothesis import example, given, settings
from hypothesis import strategies as st

Checked = dict[int, Record]


def one_by_one(path: Path) -> Checked:
    return {entry.number: check_entry(entry) for entry in read_entries(path)}


def by_chunks(path: Path, size: int) -> Checked:
    found: Checked = {}
    for chunk in read_chunks(path, size):
        records = check_chunk(path, chunk)
        columns = (column.to_pylist() for column in (records.ids, records.descriptions, records.sequences))
        rows = zip(records.number.tolist(), *columns, strict=True)
        here = {number: Record(name, text, sequence.encode()) for number, name, text, sequence in rows}
        assert not set(here) & set(records.faulty)
        assert set(here) | set(records.faulty) == set(range(chunk.first, chunk.first + chunk.n_entries))
        found.update(here | records.faulty)
    return found


odd_bytes = st.binary(max_size=3)
words = st.text("abcXYZ|_0 é\t\x07", max_size=6).map(str.encode)
headers = st.lists(st.one_of(words, odd_bytes), max_size=4).map(b" ".join)
letters = st.one_of(st.text("ACDEFGHIKLMNPQRSTVWY", max_size=8), st.text("ACDEacdeXU*-1", max_size=5))
blanks = st.sampled_from(["", "", "", " ", "\t", " M"])
lines = st.tuples(blanks, letters, blanks).map(lambda parts: "".join(parts).encode())
ends = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\r\r\n", b""])


@st.composite
def files(draw: st.DrawFn) -> bytes:
    entries = draw(st.lists(st.tuples(headers, st.lists(lines, max_size=3)), min_size=1, max_size=6))
    text = b""
    for header, body in entries:
        text += b"\n>" + header + draw(ends) + b"".join(line + draw(ends) for line in body)
    return b">first\nMKV" + text


# Of the profile "thorough" 10,000.
@settings(max_examples=max(600, settings.default.max_examples))
@given(files(), st.sampled_from([1, 10, 1 << 20]), st.sampled_from([bytes, gzip.compress, zstd.compress]))
@example(data=b">a\nM\n>", size=1, pack=bytes)
@example(data=b">a\nM\n>\n", size=1, pack=bytes)
@example(data=b">a b \nM\n>c  d\nM", size=100, pack=bytes)
@example(data=b">a\r\nM\r\n>b\r\nm*\r\n", size=100, pack=bytes)
@example(data=b">a", size=100, pack=bytes)
@example(data=b">a\nM\n>b\nM>c\nM\n>d\nM>e", size=100, pack=bytes)
@example(data=b">a\nM\n>b\nM\r\nInternal Server Error\n>c\nM\n", size=100, pack=bytes)
@pytest.mark.slow
def test_columns_are_the_records(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, size: int, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "columns.fasta"
    path.write_bytes(pack(data))
    try:
        expected: Checked | str = one_by_one(path)
    except UserError as error:
        expected = str(error)
    try:
        found: Checked | str = by_chunks(path, size)
    except UserError as error:
        found = str(error)
    assert found == expected
