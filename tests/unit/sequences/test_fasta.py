"""The FASTA reader, against a parser that goes line by line and against Biopython."""

import gzip
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from backports import zstd
from Bio.SeqIO.FastaIO import SimpleFastaParser
from embedome.common.errors import UserError
from embedome.sequences import compressed, fasta
from embedome.sequences.fasta import Chunk, read_entries, split_chunk, write_entry
from helpers.filtered import run_filter
from hypothesis import given
from hypothesis import strategies as st

COMPRESSIONS = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "gzip members": lambda data: gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :]),
    "zstandard": zstd.compress,
    # As pzstd writes it: before each frame one of 4 bytes that says how long it is.
    "zstandard frames to pass over": lambda data: b"\x50\x2a\x4d\x18\x04\x00\x00\x00size" + zstd.compress(data),
    "zstandard frames": lambda data: zstd.compress(data[: len(data) // 3]) + zstd.compress(data[len(data) // 3 :]),
}
WHITE_SPACE = b" \t\r\n\x0b\x0c"


def slow_parse(data: bytes) -> list[tuple[bytes, bytes]]:
    """Header and sequence of each record, line by line."""
    records: list[tuple[bytes, bytes]] = []
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line.startswith(b">"):
            records.append((line[1:].rstrip(b"\r"), b""))
        elif records:
            header, sequence = records.pop()
            records.append((header, sequence + bytes(c for c in line if c not in WHITE_SPACE)))
    return records


def fast_parse(path: Path) -> list[tuple[bytes, bytes]]:
    entries = list(read_entries(path))
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    return [(entry.header, bytes(c for c in entry.body if c not in WHITE_SPACE)) for entry in entries]


headers = st.binary(max_size=30).map(lambda text: text.replace(b"\n", b" ").replace(b"\r", b" "))
# Any bytes but blanks, marks and the letters of words, after a residue, with blanks around them.
no_residues = WHITE_SPACE + b"""jou"$%&'(),:;<=>@[]^`{|}"""
inner = st.binary(max_size=20).map(lambda text: b"M" + text.translate(None, no_residues))
blanks = st.sampled_from([b"", b"", b" ", b"\t \v"])
lines = st.one_of(st.tuples(blanks, inner, blanks).map(b"".join), blanks)


@st.composite
def fasta_files(draw: st.DrawFn) -> bytes:
    """A FASTA file as bytes: any headers and sequences, LF or CR LF, blank lines, with or without a last line end."""
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    records = draw(st.lists(st.tuples(headers, st.lists(lines, max_size=4)), min_size=1, max_size=8))
    text = end.join(part for header, body in records for part in (b">" + header, *body))
    return draw(st.sampled_from([b"", end, b" " + end + end])) + text + draw(st.sampled_from([b"", end, end + end]))


@given(data=fasta_files(), compression=st.sampled_from(sorted(COMPRESSIONS)), block_bytes=st.integers(1, 40))
def test_any_file_in_any_blocks(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, compression: str, block_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "x"
    path.write_bytes(COMPRESSIONS[compression](data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed, "BLOCK_BYTES", block_bytes)
        assert fast_parse(path) == slow_parse(data)


@pytest.mark.parametrize("width", [1, 7, 60, 10_000])
@pytest.mark.parametrize("compression", sorted(COMPRESSIONS))
def test_agrees_with_biopython(tmp_path: Path, compression: str, width: int) -> None:
    sequences = ["MKV" * n for n in range(1, 40)]
    text = "".join(
        f">id{n} some protein n={n}\n" + "\n".join(s[i : i + width] for i in range(0, len(s), width)) + "\n"
        for n, s in enumerate(sequences)
    )
    path = tmp_path / "x.fasta"  # the name says nothing of the compression
    path.write_bytes(COMPRESSIONS[compression](text.encode()))
    expected = [(title.encode(), s.encode()) for title, s in SimpleFastaParser(io.StringIO(text))]
    assert len(expected) == 39
    assert fast_parse(path) == expected


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(b">a\nMK\n>b\nMV", mtime=0)
        + gzip.compress(b">c\nML\n", mtime=0),  # put together without a line end between
        b">a\nMK\r>b y\rMV\n>c\nML\n",
        b">a\nMK\n >b\nMV\n",
    ],
)
def test_a_record_behind_another_on_one_line_is_not_lost(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.fasta"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"record [12] has a '>' in its sequence"):
        list(read_entries(path))
    with pytest.raises(UserError, match=r"record [12] has a '>' in its sequence"):
        run_filter(tmp_path / "out", path, min_length=1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b">a\nMK\n", mtime=0) + b"\n", "or something else follows them"),
        # A frame with a window of 1 GiB, and one raw block of 6 bytes (RFC 8878, section 3.1.1).
        (b"\x28\xb5\x2f\xfd\x00\xa0\x31\x00\x00>a\nMK\n", "zstd --long"),
    ],
)
def test_what_cannot_be_unpacked_is_told_by_its_cause(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.fasta"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        list(read_entries(path))


@pytest.mark.parametrize("compression", sorted(COMPRESSIONS))
@pytest.mark.parametrize("size", [10, 3 << 20])
def test_the_file_itself_is_digested_as_it_is_read(tmp_path: Path, compression: str, size: int) -> None:
    text = b">id\n" + np.random.default_rng(0).choice(np.frombuffer(b"ACDEFGHIKLMNPQ\n", np.uint8), size).tobytes()
    path = tmp_path / "x"
    path.write_bytes(COMPRESSIONS[compression](text))
    digest = hashlib.sha256()
    assert b"".join(compressed.read_blocks(path, digest)) == text
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\n\n", b"\xef\xbb\xbf\r\n", b" \t\n"])
def test_what_may_stand_before_the_first_header(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "x.fasta"
    path.write_bytes(before + b">a\nMK\n")
    assert fast_parse(path) == [(b"a", b"MK")]


def test_an_entry_of_any_length_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (compressed, fasta):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(fasta, "MAX_ENTRY_BYTES", 1 << 20)
    path = tmp_path / "x.fasta"
    path.write_bytes(b">a\nMK\n>b\n" + b"M" * 1_000_000)
    assert [len(sequence) for _, sequence in fast_parse(path)] == [2, 1_000_000]
    path.write_bytes(b">a\nMK\n>b\n" + b"M" * 2_000_000)
    with pytest.raises(UserError, match="record 2 is longer than 1 MiB") as caught:
        fast_parse(path)
    assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("compression", sorted(COMPRESSIONS))
def test_files_are_closed(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "x.fasta"
    path.write_bytes(COMPRESSIONS[compression](b">a\nMK\n>b\nMK\n"))
    fast_parse(path)
    next(read_entries(path))  # and one given up half-way
    assert str(path) not in {str(Path(link).resolve()) for link in Path("/proc/self/fd").iterdir()}


names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@given(name=names, description=st.text("abc =[]", max_size=20).map(str.strip), sequence=st.text("ACDEF", min_size=1))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, name: str, description: str, sequence: str
) -> None:
    path = tmp_path_factory.mktemp("written") / "x.fasta"
    with path.open("wb") as stream:
        write_entry(stream, "before", "", b"MK")
        write_entry(stream, name, description, sequence.encode())
    with path.open(encoding="utf-8", newline="\n") as stream:
        (title, text), (second, text_two) = SimpleFastaParser(stream)
    assert (title, text, text_two) == ("before", "MK", sequence)
    assert second == f"{name} {description}".rstrip()


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8])
def test_a_chunk_is_split_into_whole_entries(most):
    data = b"".join(b">%d x>y\nMK\nV\n" % number for number in range(7)) + b">\n>last\nM"
    chunk = Chunk(5, 9, data)
    pieces = list(split_chunk(chunk, most))
    assert [text for piece in pieces for text in piece.texts()] == chunk.texts()
    assert [piece.n_entries for piece in pieces] == [len(piece.texts()) for piece in pieces]
    assert all(piece.n_entries <= most for piece in pieces)
    assert [piece.first for piece in pieces] == list(range(5, 14, most))
