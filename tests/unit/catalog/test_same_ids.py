"""Records of one id, and files of which no record is kept: what is said of them, and what is listed."""

import re
from pathlib import Path

import pytest
from embedome.common.errors import UserError
from helpers.filtered import Filtered, run_filter, tree, write_fasta

SOUND = b">sound x\nMKV\n"


def filter_bytes(folder: Path, data: bytes, **limits: int) -> Filtered:
    path = folder / "input.fasta"
    path.write_bytes(data)
    return run_filter(folder / "out", path, **limits)


def test_two_sequences_of_one_id_are_named_and_all_are_listed(tmp_path: Path) -> None:
    text = b">a\nMK\n>twice x\nMKV\n>b\nMK\n>twice y\nAA\n>twice z\nMKV\n>b\nM-\n>b\nMK\n"
    with pytest.raises(UserError) as caught:
        filter_bytes(tmp_path, text)
    file, listed = re.escape(str(tmp_path / "input.fasta")), tmp_path / "out" / "rejects.parquet.same_ids.tsv"
    assert re.match(
        f"two records have the id 'b': record 3 of {file} and record 6 of {file}, with different sequences; "
        f"all 2 such pairs are listed in {re.escape(str(listed))}",
        str(caught.value),
    )
    rows = [line.split("\t") for line in listed.read_text().splitlines()]
    assert rows[0] == ["id", "file", "number", "length", "other_file", "other_number", "other_length"]
    assert rows[1:] == [
        ["b", "input.fasta", "3", "2", "input.fasta", "6", "2"],
        ["twice", "input.fasta", "2", "3", "input.fasta", "4", "2"],
    ]
    assert tree(tmp_path / "out").keys() == {"rejects.parquet.same_ids.tsv"}
    # The list goes with the fault.
    assert filter_bytes(tmp_path, SOUND).account["kept"] == 1
    assert not listed.exists()


def test_exact_repeats_are_rejected_and_counted(tmp_path: Path) -> None:
    one = write_fasta(tmp_path / "one.fasta", [("a first", "MKBV"), ("b", "MK"), ("short", "M"), ("x", "MKBV")])
    two = write_fasta(tmp_path / "two.fasta", [("b", "mk"), ("a second", "MKXV"), ("short", "M"), ("a", "MKBV*")])
    run = run_filter(tmp_path / "out", one, two, mask_residues="B", min_length=2)
    assert run.rows("id, description, record, duplicate_of") == [
        ("a", "first", 0, None),
        ("b", "", 1, None),
        ("x", "", 3, "a"),
    ]
    assert run.account["rejected"] == {"exact-repeat": 3, "too-short": 2}
    assert run.account["read"] == run.account["kept"] + 5 == 8
    assert run.rejected("id, reason, detail, file, number") == [
        ("a", "exact-repeat", f"as record 1 of {one}", "two.fasta", 2),
        ("a", "exact-repeat", f"as record 1 of {one}", "two.fasta", 4),
        ("b", "exact-repeat", f"as record 2 of {one}", "two.fasta", 1),
        ("short", "too-short", "1 residues; at least 2", "one.fasta", 3),
        ("short", "too-short", "1 residues; at least 2", "two.fasta", 3),
    ]


def test_of_a_record_and_its_rejected_repeat_the_other_is_kept(tmp_path: Path) -> None:
    run = filter_bytes(tmp_path, b">a (Fragment)\nMK\n>a whole\nMK\n>a again\nMK\n", fragments=False)
    assert run.rows("id, description") == [("a", "whole")]
    assert run.account["rejected"] == {"exact-repeat": 1, "fragment": 1}


def test_nothing_kept_names_the_first_record_and_lists_all(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        filter_bytes(tmp_path, b">a\n>b x\nM*K\n")
    listed = tmp_path / "out" / "rejects.parquet.dropped.tsv"
    assert str(caught.value) == (
        f"{tmp_path}/input.fasta: no record of 2 was kept (empty-sequence: 1, invalid-residue: 1); record 1 of "
        f"input.fasta, 'a': empty-sequence, the header has no sequence below it; all are listed in {listed}"
    )
    assert listed.read_text().splitlines()[2] == "rejected\tb\tinvalid-residue\t'*' at 2\t3"
    assert not (tmp_path / "out" / "catalog").exists()
    filter_bytes(tmp_path, SOUND)
    assert not listed.exists()


def test_nothing_kept_by_limits_says_where_these_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'b': too-short, 1 residues; at least 5; .* See the limits in filter$"):
        filter_bytes(tmp_path, b">b\nM\n>a\nMK\n", min_length=5)
