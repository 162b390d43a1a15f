"""What becomes of one entry: its id, description and sequence, its digest, and the reason for which it is dropped."""

import base64
import hashlib
import string

import pytest
from embedome.sequences.digests import refget_digest, refget_digests
from embedome.sequences.fasta import FastaEntry
from embedome.sequences.records import Record, check_entry
from hypothesis import given
from hypothesis import strategies as st


def check(header: bytes, body: bytes = b"MKV\n") -> Record:
    return check_entry(FastaEntry(1, header, body))


@pytest.mark.parametrize(
    ("sequence", "digest"),
    [
        # GA4GH refget sequences v2 and GA4GH VRS, both under "sha512t24u".
        (b"ACGT", "SQ.aKF498dAxcJAqme6QYQ7EZ07-fiw8Kw2"),
        (b"", "SQ.z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXc"),
    ],
)
def test_published_digests(sequence: bytes, digest: str) -> None:
    assert refget_digest(sequence) == digest


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_digests_of_many_sequences_are_those_of_each(sequences: list[bytes]) -> None:
    assert refget_digests(sequences) == [refget_digest(sequence) for sequence in sequences]


@given(st.text(string.ascii_uppercase, max_size=300))
def test_digest_is_sha512_cut_to_24_bytes(sequence: str) -> None:
    prefix, _, encoded = refget_digest(sequence.encode()).partition(".")
    assert prefix == "SQ"
    assert len(encoded) == 32
    standard = encoded.replace("-", "+").replace("_", "/")
    assert base64.b64decode(standard).hex() == hashlib.sha512(sequence.encode("ascii")).hexdigest()[:48]


@pytest.mark.parametrize(
    ("header", "name", "description"),
    [
        (b"a", "a", ""),
        (b"a b c", "a", "b c"),
        (b"a\tb", "a", "b"),
        (b" a  b ", "a", "b"),
        (b"sp|P01308|INS_HUMAN Insulin", "sp|P01308|INS_HUMAN", "Insulin"),
        (b"../../etc/passwd", "../../etc/passwd", ""),
        (b"'a\"b;c,d%2F*?[x]", "'a\"b;c,d%2F*?[x]", ""),
        (b">a", ">a", ""),
        ("prötéin_β 名前".encode(), "prötéin_β", "名前"),
        (b"a caf\xe9", "a", "café"),  # Latin-1
        (b"a b\x00c\x7f\x1bd", "a", "b c  d"),
        (b"a " + "b\u2028c\u00a0d\u200be".encode(), "a", "b c d e"),
    ],
)
def test_id_is_the_first_word_as_it_is(header: bytes, name: str, description: str) -> None:
    assert check(header) == Record(name, description, b"MKV")


@pytest.mark.parametrize(
    ("body", "sequence"),
    [
        (b"mkV\n", b"MKV"),
        (b"MK\r\nV\r\n", b"MKV"),
        (b"M K\tV\n\n", b"MKV"),
        (b"MKV*\n", b"MKV"),
        (b"MKV*", b"MKV"),
        (b"MKV\n*\n", b"MKV"),
        (string.ascii_letters.encode(), (string.ascii_uppercase * 2).encode()),
        (b"MKV\n" * 20_000, b"MKV" * 20_000),
    ],
)
def test_sequence_is_upper_case_without_white_space_and_stop(body: bytes, sequence: bytes) -> None:
    assert check(b"a", body) == Record("a", "", sequence)


@pytest.mark.parametrize(
    ("header", "reason", "detail"),
    [
        (b"", "no-id", "no word"),
        (b" \t ", "no-id", "no word"),
        (b"a\xff b", "invalid-id", "not UTF-8"),
        ("a\u00a0b".encode(), "invalid-id", "do not print"),
        (b"\xef\xbb\xbfa", "invalid-id", "do not print"),  # a byte order mark within a file
        (b"a\x00b", "invalid-id", "control"),
        (b"x" * 1001, "invalid-id", "1001 characters; at most 1000"),
        (b"x" * 10_000 + b" y", "invalid-id", "10000 characters; at most 1000"),
    ],
)
def test_ids_that_cannot_be_used(header: bytes, reason: str, detail: str) -> None:
    record = check(header)
    assert record.reason == reason
    assert detail in record.detail


def test_the_longest_id() -> None:
    assert check(b"x" * 1000).reason is None
    assert check("β".encode() * 1000).reason is None


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        (b"", "empty-sequence", "no sequence"),
        (b" \n\r\n", "empty-sequence", "no sequence"),
        (b"*\n", "empty-sequence", "no sequence"),
        (b"MK*V\n", "invalid-residue", "'*' at 3"),
        (b"MKV**\n", "invalid-residue", "'*' at 4"),
        (b"MK-V\n", "invalid-residue", "'-' at 3"),
        (b"MKV.\n", "invalid-residue", "'.' at 4"),
        (b"M\n1 KV 2\n", "invalid-residue", "'1' at 2"),
        (b"M>K\n", "invalid-residue", "'>' at 2"),
        ("MKÉ".encode(), "invalid-residue", "xc3' at 3"),
        (b"MK\x00V", "invalid-residue", "'\\x00' at 3"),
        (b"MKV\x1a", "invalid-residue", "'\\x1a' at 4"),  # end of file in DOS
    ],
)
def test_sequences_that_cannot_be_used(body: bytes, reason: str, detail: str) -> None:
    record = check(b"a", body)
    assert (record.id, record.reason) == ("a", reason)
    assert detail in record.detail


@given(header=st.binary(max_size=40), body=st.binary(max_size=40))
def test_any_bytes_give_a_sound_record_or_a_reason(header: bytes, body: bytes) -> None:
    record = check(header, body)
    record.id.encode(), record.description.encode()  # valid text, whatever came in
    assert record.description.isprintable()
    if record.reason is None:
        assert record.detail is None
        assert header.split()[0] == record.id.encode()
        assert set(record.sequence.decode()) <= set(string.ascii_uppercase)
        assert bytes(c for c in body.upper() if c not in b" \t\r\n\x0b\x0c") in (
            record.sequence,
            record.sequence + b"*",
        )
        assert record.sequence
    else:
        assert record.reason in {"no-id", "invalid-id", "empty-sequence", "invalid-residue"}
        assert record.detail
