"""Published forms, read as they are: small files of each."""

import gzip

import pytest
from embedome.common.errors import UserError
from embedome.evaluation.data_files import open_sources
from embedome.evaluation.examples import NO_LABEL
from embedome.evaluation.readers import read_task, substitute
from embedome.evaluation.results import count_difference
from embedome.evaluation.tasks import AVGFP, TASKS
from helpers.made_tasks import structure, write_flip_pairs, write_flip_values, write_zip


def read(name, *paths):
    return read_task(TASKS[name], open_sources(paths))


def splits(examples):
    return {split: [examples.ids[each] for each in examples.of_split(split)] for split in ("train", "val", "test")}


def test_flip_pairs_have_sequences_labels_mask_and_splits(tmp_path):
    examples, files = read("secondary_structure", write_flip_pairs(tmp_path / "ss"))
    assert examples.found == {"train": 30, "val": 8, "test": 10}
    assert {file.name for file in files} == {"sequences.fasta", "sampled.fasta", "mask.fasta"}
    letters = "".join(examples.labelling.classes[each] for each in examples.targets)
    assert letters == "".join(structure(sequence.decode()) for sequence in examples.sequences)
    assert [bool(examples.mask[begin]) for begin in examples.offsets[:-1]] == [False] * 48
    assert examples.mask.sum() == len(examples.targets) - 48
    assert splits(examples)["val"] == [f"val{number}" for number in range(8)]


def test_an_archive_and_compressed_files_are_read_alike(tmp_path):
    folder = write_flip_pairs(tmp_path / "ss")
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    for name, text in texts.items():
        (tmp_path / f"old.{name}.gz").write_bytes(gzip.compress(text.encode()))
    plain, _ = read("secondary_structure", folder)
    zipped, _ = read("secondary_structure", write_zip(tmp_path / "splits.zip", texts))
    packed, _ = read("secondary_structure", *tmp_path.glob("old.*.gz"))
    for other in (zipped, packed):
        assert (other.ids, other.sequences) == (plain.ids, plain.sequences)
        assert other.targets.tolist() == plain.targets.tolist()


def test_a_later_source_has_the_test_set(tmp_path):
    """As FLIP's 648 test proteins of 2022 beside today's train set."""
    write_flip_pairs(tmp_path / "today", {"train": 30, "val": 8, "test": 4})
    write_flip_pairs(tmp_path / "then", {"test": 9})
    examples, _ = read("secondary_structure", tmp_path / "today", tmp_path / "then")
    assert examples.found == {"train": 30, "val": 8, "test": 9}


def test_sequences_without_labels_are_counted_and_labels_without_sequence_refused(tmp_path):
    folder = write_flip_pairs(tmp_path / "ss")
    sequences = folder / "sequences.fasta"
    with sequences.open("a") as handle:
        handle.write(">more\nMKV\n")
    examples, _ = read("secondary_structure", folder)
    assert examples.left_out == {NO_LABEL: 1}
    sequences.write_text(sequences.read_text().replace(">val3\n", ">another\n"))
    with pytest.raises(UserError, match=r"sampled.fasta: record 34: val3 has labels, but no sequence"):
        read("secondary_structure", folder)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("SET=train", "SET=Train", r"record 1: SET is 'Train'; expected train or test"),
        (">train0 SET=train", ">train0 ", r"record 1: has no SET"),
        (">train0 ", "> ", r"record 1: SET=train has labels, but no sequence"),
    ],
)
def test_faults_of_labels_are_named(tmp_path, old, new, fault):
    folder = write_flip_pairs(tmp_path / "ss")
    labels = folder / "sampled.fasta"
    labels.write_text(labels.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=fault):
        read("secondary_structure", folder)


def test_missing_files_are_named(tmp_path):
    folder = write_flip_pairs(tmp_path / "ss")
    (folder / "mask.fasta").unlink()
    with pytest.raises(UserError, match=r"ss/.*: has no mask.fasta, which the task secondary_structure needs"):
        read("secondary_structure", folder)


def test_values_stand_in_headers_and_both_gb1_splits_are_found_by_name(tmp_path):
    text = write_flip_values(tmp_path / "x.fasta").read_text()
    archive = write_zip(tmp_path / "splits.zip", {"sampled.fasta": text, "two_vs_rest.fasta": text.replace("val", "v")})
    sampled, _ = read("gb1_sampled", archive)
    rest, _ = read("gb1", archive)
    assert sampled.ids[30] == "val0"
    assert rest.ids[30] == "v0"
    assert sampled.targets[0] == pytest.approx(
        sum(sampled.sequences[0].count(letter) for letter in b"WL") / len(sampled.sequences[0]), abs=1e-4
    )


def test_a_csv_without_ids_and_validation_is_read(tmp_path):
    rows = [f"M{'K' * number}W,{40 + number}.5,{'test' if number > 14 else 'train'}" for number in range(20)]
    (tmp_path / "clustered_task.csv").write_text("\n".join(["sequence,target,set", *rows]) + "\n")
    examples, _ = read("meltome_2021", tmp_path)
    assert examples.found == {"train": 15, "val": 0, "test": 5}
    assert len(examples.of_split("val")) == 2
    assert examples.targets[:2].tolist() == [40.5, 41.5]


HHBLITS = """input, dssp3, dssp8, disorder, cb513_mask
M K V,C H E,C G B,1.0 1.0 0.0,1.0 0.0 0.0
A W,H H,H I,1.0 1.0,1.0 1.0
"""
BIONEMO = "id,sequence,3state,8state,resolved\n" + "".join(
    f"P{n},MKVA{'W' * n},CEHC{'C' * n},_GE_{'S' * n},0111{'1' * n}\n" for n in range(12)
)


def test_secondary_structure_of_netsurfp_is_read_in_both_forms(tmp_path):
    (tmp_path / "CB513_HHblits.csv").write_text(HHBLITS)
    (tmp_path / "sample.csv").write_text(BIONEMO)
    eight, _ = read("ss8_cb513", f"train={tmp_path}/sample.csv", tmp_path / "CB513_HHblits.csv")
    assert eight.found == {"train": 12, "val": 0, "test": 2}
    names = eight.labelling.classes
    first, test = eight.ids.index("P0"), eight.of_split("test")[0]
    assert [names[each] for each in eight.targets[eight.offsets[first] : eight.offsets[first + 1]]] == list("CGEC")
    assert [names[each] for each in eight.targets[eight.offsets[test] : eight.offsets[test + 1]]] == list("CGB")
    # Disorder is 1 where a residue is ordered.
    assert eight.mask[eight.offsets[test] : eight.offsets[test + 1]].tolist() == [True, True, False]
    assert eight.mask[eight.offsets[first] : eight.offsets[first + 1]].tolist() == [False, True, True, True]


def test_flips_train_set_stands_in_for_three_states_and_not_for_eight(tmp_path):
    write_flip_pairs(tmp_path / "ss")
    (tmp_path / "CB513_HHblits.csv").write_text(HHBLITS)
    three, _ = read("ss3_cb513", tmp_path / "ss", tmp_path / "CB513_HHblits.csv")
    assert three.found == {"train": 30, "val": 8, "test": 2}
    assert count_difference(TASKS["ss3_cb513"], three.found).startswith("train 30 of 10,792, val 8 of 0, test 2 of 511")
    with pytest.raises(UserError, match="has three states, but the task ss8_cb513 needs eight"):
        read("ss8_cb513", tmp_path / "ss", tmp_path / "CB513_HHblits.csv")


def test_a_task_without_train_set_is_refused(tmp_path):
    (tmp_path / "CB513_HHblits.csv").write_text(HHBLITS)
    with pytest.raises(UserError, match="the task has no train protein at hand"):
        read("ss8_cb513", tmp_path / "CB513_HHblits.csv")


DEEPLOC = """>Q1 Cell.membrane-M{0}
MKV
>Q2 Cytoplasm-Nucleus-U{0}
MKVA
>Q3 Cytoplasm-S{0}
MKVAW
"""


def test_deeploc_headers_and_tables_are_read_for_both_tasks(tmp_path):
    for split, mark in (("val", ""), ("test", " test")):
        text = DEEPLOC.format(mark).replace(">Q", f">{split}")
        (tmp_path / f"deeploc_{'our_val' if split == 'val' else 'test'}_set.fasta").write_text(text)
    rows = [
        "T1,MWK,Cytoplasm,S,train",
        "T2,MWKK,Cell.membrane,M,train",
        "T2,MWW,Nucleus,U,train",
        "T3,MWA,Nucleus,U,test",
    ]
    (tmp_path / "le500.csv").write_text(
        "\n".join(["accession,sequence,location,membrane,split", *rows, "val3,MKVAW,Cytoplasm,S,train"])
    )
    where, _ = read("deeploc", f"train={tmp_path}/le500.csv", tmp_path)
    assert splits(where) == {"train": ["T1", "T2", "T2-2"], "val": ["val1", "val3"], "test": ["test1", "test3"]}
    assert where.found == {"train": 4, "val": 3, "test": 3}
    assert where.left_out == {"of train that are in val or test": 1, "of another class": 2}
    bound, _ = read("deeploc_membrane", f"train={tmp_path}/le500.csv", tmp_path)
    assert [bound.labelling.classes[each] for each in bound.targets] == ["S", "M", "M", "S", "M", "S"]


def test_deepsol_has_two_files_of_lines(tmp_path):
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        (tmp_path / f"{split}_src").write_text(
            "".join(f"M{'K' * number}{split[:1].upper()}\n" for number in range(count))
        )
        (tmp_path / f"{split}_tgt").write_text("".join(f"{number % 2}\n" for number in range(count)))
    examples, _ = read("solubility", tmp_path)
    assert examples.found == {"train": 6, "val": 2, "test": 2}
    assert examples.targets.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    (tmp_path / "val_tgt").write_text("0\n")
    with pytest.raises(UserError, match=r"val_src has 2 lines, .*val_tgt 1; expected as many"):
        read("solubility", tmp_path)
    (tmp_path / "train_src").unlink()
    with pytest.raises(UserError, match="has train_src or train_tgt alone"):
        read("solubility", tmp_path)


def test_variants_are_the_wild_type_with_substitutions(tmp_path):
    lines = ["variant\tnum_mutations\tscore", "K1E\t1\t0.5", *(f"G2{letter}\t1\t0.1" for letter in "ACDEFHIK")]
    lines += ["K1E,G2A,E3D,E4K\t4\t-1.5"]
    (tmp_path / "any_name.tsv").write_text("\n".join(lines) + "\n")
    examples, _ = read("fluorescence", tmp_path / "any_name.tsv")
    assert examples.found == {"train": 7, "val": 2, "test": 1}
    assert examples.sequences[examples.ids.index("K1E")] == b"SE" + AVGFP[2:].encode()
    assert examples.sequences[-1] == b"SEADK" + AVGFP[5:].encode()
    with pytest.raises(UserError, match="here: 'W1E' is no substitution in 237 residues of the wild type"):
        substitute(AVGFP, "W1E", "here")
