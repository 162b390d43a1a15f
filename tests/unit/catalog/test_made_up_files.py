"""The whole filter on files of every kind of header, line end, compression and odd byte, against a slow reading."""

import gzip
import itertools
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from backports import zstd
from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records
from hypothesis import event, given, settings
from hypothesis import strategies as st

SHORTEST, LONGEST = 2, 30
# Of each of the four kinds of first files: together as many as the profile says.
EXAMPLES = settings.default.max_examples // 4


class Found(NamedTuple):
    """What is made of a record: kept with a sequence, or rejected for a reason."""

    name: str
    sequence: str | None
    reason: str | None
    description: str


def read_slowly(data: bytes) -> Iterator[Found]:
    """Read FASTA line by line, and a record byte by byte."""
    records: list[tuple[bytes, list[bytes]]] = []
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = line.rstrip(b"\r")
        if line.startswith(b">"):
            records.append((line[1:], []))
        elif records:
            records[-1][1].append(line)
        else:
            assert not line.strip(), "the generator's own fault"
    for header, lines in records:
        yield judge(header, b"".join(lines))


def judge(header: bytes, body: bytes) -> Found:
    """What a record is, from its header line and the lines below it."""
    # White space of ASCII alone ends an id.
    words = re.match(rb"[ \t\v\f\r]*([^ \t\v\f\r]*)[ \t\v\f\r]*(.*)\Z", header, re.DOTALL)
    name = words[1].decode(errors="backslashreplace")
    description = printed(words[2])
    residues = "".join(chr(byte) for byte in body if chr(byte) not in " \t\v\f\r")
    residues = "".join(letter.upper() if letter.isascii() else letter for letter in residues)
    if residues.endswith("*"):
        residues = residues[:-1]
    reason = None
    if not words[1]:
        reason = "no-id"
    elif not is_utf8(words[1]) or not name.isprintable() or len(name) > 1000:
        reason = "invalid-id"
    elif not residues:
        reason = "empty-sequence"
    elif any(letter not in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" for letter in residues):
        reason = "invalid-residue"
    elif len(residues) < SHORTEST:
        reason = "too-short"
    elif len(residues) > LONGEST:
        reason = "too-long"
    return Found(name, None if reason else residues, reason, description)


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def printed(text: bytes) -> str:
    """A description: what does not print is a space."""
    text = text.rstrip(b" \t\v\f\r")
    decoded = text.decode() if is_utf8(text) else text.decode("latin-1")
    return "".join(letter if letter.isprintable() else " " for letter in decoded).strip(" ")


# Files.

# Choices are made from lists written out beforehand: each that hypothesis draws takes time.
ODD = ["\xa0", "é", "名", "\x00", "\x07", "\x1b", "\x7f", "\x85", "\u2028", "\ufeff", "\U0001f9ec"]
ODD_BYTES = [*map(str.encode, ODD), b"\xff", b"\xe9", b"\xc3", b"\xf0\x9f", b"\xed\xa0\x80"]
VALUES = [b"1", b"12", b"9606", b"4294967296", b"", b"x", b"Homo sapiens", b"E. coli (strain K12)", b"n=2 Tax=1"]
WORDS = [
    b"protein",
    b"n=3",
    b"Tax=",
    b"RepID=X",
    b"OS=",
    b"OX=9606",
    b">x",
    b"|",
    b"'\"",
    b"(Fragment)",
    b"\t",
    b"",
    b"\f",
]
UNIREF = [b" n=%b Tax=%b TaxID=%b RepID=%b" % each for each in itertools.product(VALUES, repeat=4)]
UNIPROT = [b" OS=%b OX=%b GN=%b PE=1 SV=2" % each for each in itertools.product(VALUES, repeat=3)]
words = st.lists(st.sampled_from(WORDS + ODD_BYTES), max_size=3).map(b" ".join)
fields = st.sampled_from(["UNIREF", "UNIPROT", ""])
grammar = {"UNIREF": st.sampled_from(UNIREF), "UNIPROT": st.sampled_from(UNIPROT), "": st.just(b"")}
gaps = st.sampled_from([b" ", b"  ", b"\t", b" \t ", b"\v", b""])
trails = st.sampled_from([b"", b" ", b" \t"])

# With the number of the record: no two have the same. The last two have 1,000 and 1,001 characters.
IDS = [
    b"P%d",
    b"UniRef50_%d",
    b"UniRef90_%d",
    b"sp|P%d|X_HUMAN",
    b"tr|A%d|Y",
    b"../%d",
    b"a,b;%d",
    b">%d",
    b"",
    b"\x01%d",
]
IDS += [b"%d" + text for text in ODD_BYTES] + [b"x" * 990 + b"%010d", b"x" * 991 + b"%010d"]
ids = st.sampled_from([*IDS[:8] * 3, *IDS[8:]])

LINES = [b"MKV", b"A", b"GHILMNPQRSTVWY", b"ACDEFGHIKLMNPQR", b"", b"mkv", b"XBZUOJ", b" M K ", b"\tM", b"MK*"]
LINES += [b"*", b"**", b"M-K", b"1", b"\x00", b"\xff", b"\xc3\xa9", b"\xb5", b".", b"M\x0bK\x0c", b"\x85", b"\xa0"]
# The ones that can be used come more often.
lines = st.lists(st.sampled_from([*LINES[:10] * 3, *LINES[10:]]), max_size=4)
ends = st.lists(st.sampled_from([b"", b"", b"", b"\n", b"\r\n", b"\n\n", b"\r\r\n"]), min_size=5, max_size=5)


@st.composite
def records(draw: st.DrawFn, number: int, end: bytes) -> bytes:
    name = draw(ids)
    text = b">" + (name % number if b"%" in name else name)
    # Without an id the first word of a description would be one, and not the only one of its kind.
    if name and (description := draw(words) + draw(grammar[draw(fields)])):
        text += draw(gaps) + description
    text += draw(trails)
    # A line ends as most of its file do, or in a way of its own.
    return b"".join(line + (own or end) for line, own in zip([text, *draw(lines)], draw(ends), strict=False))


@st.composite
def corpora(draw: st.DrawFn) -> list[bytes]:
    """The texts of one to three files; the first record of the first one is kept."""
    texts = []
    number = 0
    for file in range(draw(st.integers(1, 3))):
        end = draw(st.sampled_from([b"\n", b"\r\n"]))
        text = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\n", b"\r\n \n"]))
        text += b">sound" + end + b"MKV" + end if file == 0 else b""
        for _ in range(draw(st.integers(0 if file == 0 else 1, 6))):
            number += 1
            text += draw(records(number, end))
        texts.append(text.rstrip(b"\r\n") if draw(st.booleans()) else text)
    return texts


def members(data: bytes) -> bytes:
    """Gzip in several members, as of files that were joined, one of them empty."""
    third = len(data) // 3
    return b"".join(gzip.compress(part, 1) for part in (data[:third], b"", data[third : 2 * third], data[2 * third :]))


PACKERS = {"plain": bytes, "gzip": gzip.compress, "members": members, "zstandard": zstd.compress}


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder in memory, if there is one: a case flushes a dozen files and folders."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("first", PACKERS)
@settings(max_examples=EXAMPLES)
@given(
    texts=corpora(),
    others=st.lists(st.sampled_from(list(PACKERS)), min_size=2, max_size=2),
    run_bytes=st.sampled_from([24 << 20, 1, 60, 200]),
    chunk_bytes=st.sampled_from([4 << 20, 1, 20, 60]),
    block_bytes=st.sampled_from([4, 7, 33, 1 << 20]),
    run_batches=st.sampled_from([1, 2, 3, 200]),
)
@pytest.mark.slow
def test_a_corpus_is_what_a_slow_reading_finds(
    scratch: Path,
    first: str,
    texts: list[bytes],
    others: list[str],
    run_bytes: int,
    chunk_bytes: int,
    block_bytes: int,
    run_batches: int,
) -> None:
    shutil.rmtree(scratch / "out", ignore_errors=True)
    paths = [scratch / f"{number}.fasta" for number in range(len(texts))]
    for path, text, pack in zip(paths, texts, [first, *others], strict=False):
        path.write_bytes(PACKERS[pack](text))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embedome.catalog.filter.RUN_BYTES", run_bytes)
        patch.setattr("embedome.catalog.filter.CHUNK_BYTES", chunk_bytes)
        patch.setattr("embedome.sequences.compressed.BLOCK_BYTES", block_bytes)
        patch.setattr("embedome.parquet.external_sort.RUN_BATCHES", run_batches)
        account = filter_records(
            paths,
            Criteria(SHORTEST, LONGEST),
            catalog=scratch / "out" / "catalog",
            rejects=scratch / "out" / "rejects.parquet",
            summary=scratch / "out" / "filter.json",
        )
    found = [list(read_slowly(text)) for text in texts]
    check_kept(scratch / "out" / "catalog", [each for file in found for each in file], account)
    check_rejected(scratch / "out" / "rejects.parquet", found, account)
    assert [each["records"] for each in account["inputs"]] == [len(file) for file in found]
    assert account["read"] == account["kept"] + sum(account["rejected"].values()) == sum(map(len, found))
    for reason in account["rejected"]:
        event(reason)


def check_kept(catalog: Path, found: list[Found], account: dict) -> None:
    """The catalog holds each record that is kept once, by its id, and which is the first of its sequence."""
    columns = ["id", "sequence", "length", "record", "description", "duplicate_of"]
    rows = [row for path in sorted(catalog.iterdir()) for row in pq.ParquetFile(path).read(columns).to_pylist()]
    kept = {each.name: (record, each) for record, each in enumerate(found) if not each.reason}
    first: dict[str, str] = {}
    expected = []
    for name in sorted(kept, key=str.encode):
        record, each = kept[name]
        canonical = first.setdefault(each.sequence, name)
        duplicate_of = None if canonical == name else canonical
        expected.append((name, each.sequence, len(each.sequence), record, each.description, duplicate_of))
    assert [tuple(row[name] for name in columns) for row in rows] == expected
    assert account["kept"] == len(expected) == sum(not each.reason for each in found)
    assert account["duplicates"] == sum(row[-1] is not None for row in expected)


def check_rejected(rejects: Path, found: list[list[Found]], account: dict) -> None:
    """Each other record is listed once, with its file, its place there and its reason."""
    columns = ["file", "number", "id", "reason", "description"]
    rows = [tuple(row[name] for name in columns) for row in pq.ParquetFile(rejects).read(columns).to_pylist()]
    expected = [
        (f"{file}.fasta", number, each.name, each.reason, each.description)
        for file, listed in enumerate(found)
        for number, each in enumerate(listed, 1)
        if each.reason
    ]
    assert sorted(rows) == sorted(expected)
    assert account["rejected"] == Counter(reason for *_, reason, _ in expected)
