"""Which part of a header is the id, in columns and one by one, as Python's re has it."""

import re

import pytest
from embedome.common.errors import UserError
from embedome.sequences.fasta import Chunk, FastaEntry
from embedome.sequences.header_ids import HeaderIds
from embedome.sequences.record_columns import check_chunk
from embedome.sequences.records import check_entry

HEADERS = ["sp|P01308|INS_HUMAN Insulin NP_000198.1", "lcl 12 x", "one", " a b", "ref|P|q", "tr|E1|x \u00fc|Z9|"]
SETTINGS = [2, 3, r"\|(\w+)\|", r"[A-Z]{2}_\d+(?:\.\d+)?", r"(?i)(p\d+)", r"^(\S+) \d+", r"(\w+)$"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_ids_are_those_that_python_finds_in_columns_and_one_by_one(setting):
    ids = HeaderIds.of_setting(setting)
    expected = []
    for header in HEADERS:
        if isinstance(setting, int):
            words = header.split()
            expected.append(words[setting - 1] if len(words) >= setting else "")
        else:
            # RE2's classes are of ASCII.
            found = re.search(setting, header, re.ASCII)
            expected.append((found[1] if found.re.groups else found[0]) if found else "")
    entries = [FastaEntry(1, header.encode(), b"MK") for header in HEADERS]
    assert [check_entry(entry, ids).id for entry in entries] == expected
    text = "".join(f">{header}\nMK\n" for header in HEADERS).encode()
    records = check_chunk("x", Chunk(1, len(HEADERS), text), ids)
    found = dict(zip(records.number.tolist(), records.ids.to_pylist(), strict=True))
    assert [found.get(number, "") for number in range(1, len(HEADERS) + 1)] == expected
    assert {record.reason for record in records.faulty.values()} <= {"no-id"}


def test_the_description_follows_the_first_word_whatever_the_id_is():
    record = check_entry(FastaEntry(1, b"sp|P01308|INS Insulin OS=Homo", b"MK"), HeaderIds.of_setting(r"\|(\w+)\|"))
    assert (record.id, record.description) == ("P01308", "Insulin OS=Homo")


def test_the_first_word_needs_no_expression():
    assert HeaderIds.of_setting(None) is HeaderIds.of_setting(1) is None


@pytest.mark.parametrize("setting", ["(", "[a", "a(?=b)", 0, -1, 5000])
def test_what_is_no_part_of_a_header_is_named(setting):
    with pytest.raises(UserError, match=r"^--id is .*; expected "):
        HeaderIds.of_setting(setting, "--id")
