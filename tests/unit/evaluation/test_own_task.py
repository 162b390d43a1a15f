"""A user's own task: FASTA and a table."""

import pytest
from embedome.common.errors import UserError
from embedome.evaluation.own_task import name_results, read_own_task

FASTA = ">P1 x\nMKV\n>P2\nMKVA\n>P3\nMW\n>P4\nMKK\n>P5\nMAA\n"
CLASSES = "id\tsplit\tclass\nP1\ttrain\ta\nP2\ttrain\tb\nP3\tval\ta\nP4\ttest\tb\n"


def own(tmp_path, table, name="mine.tsv", fasta=FASTA):
    (tmp_path / "proteins.fasta").write_text(fasta)
    (tmp_path / name).write_text(table)
    return read_own_task([tmp_path / "proteins.fasta", tmp_path / name])


def test_a_table_of_classes_is_read(tmp_path):
    task, examples, files = own(tmp_path, CLASSES)
    assert (task.name, task.level, task.kind, task.metric, task.head) == (
        "mine",
        "protein",
        "classes",
        "accuracy",
        "mlp-256",
    )
    assert examples.ids == ["P1", "P2", "P3", "P4"]
    assert examples.sequences[0] == b"MKV"
    assert examples.left_out == {"without a label": 1}
    assert [file.name for file in files] == ["proteins.fasta", "mine.tsv"]


@pytest.mark.parametrize(
    ("column", "values", "level", "kind"),
    [
        ("labels", ("x;y", "", "x", "y"), "protein", "labels"),
        ("number", ("1", "2.5", "-3", "4"), "protein", "numbers"),
        ("residue_classes", ("HEC", "HHHH", "CC", "EEE"), "residue", "classes"),
        ("residue_labels", ("a;;ab", "a;a;b;", ";", "a;b;c"), "residue", "labels"),
        ("residue_numbers", ("1;2;3", "1;2;3;4", "5;6", "7;8;9"), "residue", "numbers"),
    ],
)
def test_the_column_says_what_the_labels_are(tmp_path, column, values, level, kind):
    rows = [
        f"P{number},{split},{value}"
        for number, split, value in zip("1234", ("train", "train", "val", "test"), values, strict=True)
    ]
    task, examples, _ = own(tmp_path, "\n".join([f"id,split,{column}", *rows]) + "\n", "mine.csv")
    assert (task.level, task.kind) == (level, kind)
    assert len(examples.targets) == (4 if level == "protein" else 12)


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (CLASSES.replace("P3\t", "P9\t"), r"mine.tsv: row 3: 'P9' is not in .*proteins.fasta"),
        (CLASSES.replace("P3\t", "P1\t"), r"mine.tsv: row 3: the id P1 comes twice"),
        (CLASSES.replace("val", "dev"), r"mine.tsv: row 3: the split of P3 is 'dev'; expected train, val, test"),
        (
            CLASSES.replace("\tclass", "\tlabel"),
            r"mine.tsv: has the columns id, split, label; expected id, split and one of",
        ),
        (CLASSES.replace("P2\ttrain\tb", "P2\ttrain\t"), "mine.tsv: row 2: P2 has no class; fill it in"),
        (CLASSES.replace("split", "set"), r"mine.tsv: has the columns id, set, class"),
        (CLASSES.replace("P2\ttrain\tb", "P2\ttrain\ta"), "all train proteins are of one class, a"),
        ("id\tsplit\tclass\n", "mine.tsv: has no rows"),
        ("id\tsplit\tnumber\nP1\ttrain\t1\nP2\ttrain\tnan\nP3\ttest\t1\n", r"row 2: P2 has the value 'nan'"),
        ("id\tsplit\tresidue_classes\nP1\ttrain\tHEC\nP2\ttrain\tHE\n", r"row 2: P2 has 2 labels, but 4 residues"),
    ],
)
def test_faults_are_named_by_record(tmp_path, table, fault):
    with pytest.raises(UserError, match=fault):
        own(tmp_path, table)


def test_a_sequence_that_comes_twice_or_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"proteins.fasta: record 6: the id P1 comes twice"):
        own(tmp_path, CLASSES, fasta=FASTA + ">P1\nMK\n")
    with pytest.raises(UserError, match=r"proteins.fasta: record 3: the sequence has '1'"):
        own(tmp_path, CLASSES, fasta=FASTA.replace("MW", "M1"))


def test_a_fasta_file_and_a_table_are_needed(tmp_path):
    own(tmp_path, CLASSES)
    with pytest.raises(UserError, match="expected for --task own a FASTA file and a table"):
        read_own_task([tmp_path / "proteins.fasta"])


def test_results_have_the_name_of_the_table_without_its_being_read(tmp_path):
    task, _, files = own(tmp_path, CLASSES)
    assert name_results("own", [str(file) for file in files]) == task.name
    assert name_results("own", ["a/proteins.fasta.gz", "b/kinds.csv.gz"]) == "kinds"
    assert name_results("own", ["proteins.fasta"]) is name_results("own", ["a.tsv", "b.tsv"]) is None
    assert name_results("gb1", ["proteins.fasta"]) == "gb1"
