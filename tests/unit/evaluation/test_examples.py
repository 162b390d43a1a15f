"""Rows to labels: encoded as they are, checked record by record."""

from dataclasses import replace

import numpy as np
import pytest
from embedome.common.errors import UserError
from embedome.evaluation.examples import IN_TEST, REPEATED, UNKNOWN_CLASS, Labelling, Row, clean_sequence, make_examples
from helpers.made_tasks import example_set

RESIDUES = Labelling("residue", "classes", tuple("CEH"))
PROTEINS = Labelling("protein", "classes")
NUMBERS = Labelling("protein", "numbers")


def row(name: str, split: str, target: str, sequence: str = "MKV", mask: str | None = None) -> Row:
    return Row(name, sequence.encode(), split, target, f"file: {name}", mask)


def three(*targets: str) -> list[Row]:
    return [
        row(f"P{number}", split, target)
        for number, (split, target) in enumerate(zip(("train", "val", "test"), targets, strict=False))
    ]


def test_residue_classes_are_encoded_in_the_given_order_with_their_mask():
    examples = make_examples([*three("CEH", "HHH", "EEC")[:2], row("P2", "test", "EEC", mask="011")], RESIDUES)
    assert examples.targets.tolist() == [0, 1, 2, 2, 2, 2, 1, 1, 0]
    assert examples.mask.tolist() == [True] * 6 + [False, True, True]
    assert examples.offsets.tolist() == [0, 3, 6, 9]
    assert examples.found == {"train": 1, "val": 1, "test": 1}


def test_classes_that_are_not_given_are_those_that_occur():
    examples = make_examples([*three("b", "a", "c"), row("P4", "train", "a")], PROTEINS)
    assert examples.labelling.classes == ("a", "b", "c")
    assert examples.targets.tolist() == [1, 0, 2, 0]


def test_several_labels_and_numbers_are_encoded():
    labels = make_examples([*three("x;y", "", "y"), row("P4", "train", "")], Labelling("protein", "labels"))
    assert labels.labelling.classes == ("x", "y")
    assert labels.targets.tolist() == [[1, 1], [0, 0], [0, 1], [0, 0]]
    by_residue = make_examples([*three("x;;yx", "x;x;x", ";;y")], Labelling("residue", "labels"))
    assert by_residue.targets[:3].tolist() == [[1, 0], [0, 0], [1, 1]]
    numbers = make_examples(three("1.5", "-2", "1e3"), NUMBERS)
    assert numbers.targets.tolist() == [1.5, -2, 1000]
    many = make_examples(
        [row("P0", "train", "1;nan;3", mask="101"), *three("", "1;2;3", "4;5;6")[1:]], Labelling("residue", "numbers")
    )
    assert many.targets[:3].tolist() == [1, 0, 3]
    assert many.mask[:3].tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("rows", "labelling", "fault"),
    [
        (three("CE", "HHH", "EEC"), RESIDUES, "file: P0: P0 has 2 labels, but 3 residues"),
        ([row("P0", "train", "CEH", mask="01")], RESIDUES, "file: P0: the mask of P0 is not 3 times 0 or 1"),
        ([row("P0", "train", "CEH", mask="01x")], RESIDUES, "file: P0: the mask of P0 is not 3 times 0 or 1"),
        (three("1", "2", "nan"), NUMBERS, "file: P2: P2 has the value 'nan'; expected a finite number"),
        (three("1", "two", "3"), NUMBERS, "file: P1: P1 has the value 'two'"),
        (three("a", "a", "b"), PROTEINS, "all train proteins are of one class, a"),
        (three("CCC", "HEH", "EEC"), RESIDUES, "all train proteins are of one class, C"),
        ([row("P0", "train", "a"), row("P0", "train", "b")], PROTEINS, "file: P0: the id P0 comes twice"),
        (three("a", "b", "a")[:2], PROTEINS, "the task has no test protein at hand"),
        (three("a", "b", "a")[1:], PROTEINS, "the task has no train protein at hand"),
        ([row("P0", "train", "a"), row("P1", "test", "a")], PROTEINS, "no validation protein, and one train protein"),
    ],
)
def test_faults_are_named_by_record(rows, labelling, fault):
    with pytest.raises(UserError, match=fault):
        make_examples(rows, labelling)


def test_what_is_left_out_is_counted():
    rows = [*three("a", "b", "a"), row("P4", "train", "b"), row("P4", "train", "b"), row("P2", "train", "a")]
    examples = make_examples([*rows, row("P5", "val", "z")], replace(PROTEINS, classes=("a", "b")))
    assert examples.ids == ["P0", "P1", "P2", "P4"]
    assert examples.left_out == {IN_TEST: 1, REPEATED: 1, UNKNOWN_CLASS: 1}
    assert examples.found == {"train": 4, "val": 2, "test": 1}


def test_without_validation_a_tenth_of_train_is_held_out_the_same_each_time():
    rows = [row(f"P{number}", "train", "ab"[number % 2], "M" + "K" * number) for number in range(40)]
    found = [make_examples([*rows, row("T", "test", "a", "W")], PROTEINS) for _ in range(2)]
    assert np.array_equal(found[0].splits, found[1].splits)
    assert len(found[0].of_split("val")) == 4
    assert len(found[0].of_split("train")) == 36
    assert found[0].found == {"train": 40, "val": 0, "test": 1}
    assert "4 of train" in found[0].notes[-1]


def test_few_train_proteins_are_drawn_and_the_others_stay():
    examples = example_set(Labelling("residue", "classes", tuple("CEH")))
    few = examples.with_few(7)
    assert len(few.of_split("train")) == 7
    assert [len(few.of_split(split)) for split in ("val", "test")] == [8, 10]
    assert examples.with_few(7).ids == few.ids
    for place, name in enumerate(few.ids):
        old = examples.ids.index(name)
        mine, theirs = few.offsets, examples.offsets
        assert few.sequences[place] == examples.sequences[old]
        assert np.array_equal(
            few.targets[mine[place] : mine[place + 1]], examples.targets[theirs[old] : theirs[old + 1]]
        )
        assert np.array_equal(few.mask[mine[place] : mine[place + 1]], examples.mask[theirs[old] : theirs[old + 1]])


def test_sequences_are_cleaned_or_refused():
    assert clean_sequence(b"mkv \nA*", "here") == b"MKVA"
    with pytest.raises(UserError, match="here: the sequence is empty"):
        clean_sequence(b" *", "here")
    with pytest.raises(UserError, match="here: the sequence has '-'"):
        clean_sequence(b"MK-V", "here")


def test_sequences_of_test_that_are_in_train_are_said():
    rows = [row("P0", "train", "a"), row("P1", "train", "b", "MW"), row("P2", "val", "a", "MR"), row("P3", "test", "a")]
    assert make_examples(rows, PROTEINS).notes == ("1 sequences of test are in train, too",)
