"""Annotation of real proteins with real labels, by a small model with random weights: the account, and above chance."""

import csv
import gzip

import pytest
from Bio.SeqIO.FastaIO import SimpleFastaParser
from embedome.annotation.annotate import annotate_dataset
from embedome.annotation.labels import LabelSource
from embedome.annotation.reference_set import AnnotateSettings
from embedome.embedding.settings import PartLimits
from helpers.paths import SHARED_DATA
from helpers.small_run import COST, prepare, rough_model


def shared(name):
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def read(path):
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [(title.split(), sequence) for title, sequence in SimpleFastaParser(stream)]


def annotated(folder, records, source, **settings):
    """The summary of an annotation of records, val and test held out."""
    line = prepare(folder / "run", records)
    line.embed(rough_model(folder / "model"), parts=PartLimits(1000, 1e9, COST))
    line.merge()
    settings = AnnotateSettings(hold_out=("val", "test"), skip_identical=True, **settings)
    return annotate_dataset(line.dataset, source, folder / "out", settings)


def test_locations_of_deeploc(tmp_path):
    """One label each: DeepLoc 1.0's test set, whose headers hold it."""
    records = read(shared("scl/deeploc_test.fasta.gz"))[::4]
    with open(tmp_path / "labels.csv", "w", newline="", encoding="utf-8") as stream:
        rows = [(title[0], title[1].rpartition("-")[0]) for title, _ in records]
        csv.writer(stream).writerows([("id", "label"), *rows])
    summary = annotated(
        tmp_path, [(title[0], sequence) for title, sequence in records], LabelSource(tmp_path / "labels.csv")
    )
    counts, score = summary["counts"], summary["score"]
    assert counts["ids"] == counts["lookup"] + counts["held_out"] == len(records)
    assert counts["labels"] == len({label for _, label in rows}) == 10
    assert score["one_label_each"]
    assert score["proteins"] == score["with_a_label"] == counts["held_out"]
    assert score["accuracy"]["carried_over"] > score["accuracy"]["random_neighbour"]


def test_go_terms_of_e_coli(tmp_path):
    """Several labels each: a column as UniProt writes it, of which a quarter of the proteins has none."""
    source = shared("go/ecoli_uniprot_go_bp.tsv.gz")
    records = [
        (title[0].split("|")[1], sequence)
        for title, sequence in read(shared("proteomes/UP000000625_83333_ecoli_k12.fasta.gz"))
    ]
    records = records[::6]
    column = "Gene ontology (biological process)"
    summary = annotated(tmp_path, records, LabelSource(source, "Entry", column), neighbours=3)
    with gzip.open(source, "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    terms = {row["Entry"]: {term.strip() for term in row[column].split(";")} for row in rows if row[column]}
    mine = [name for name, _ in records if name in terms]
    counts, score = summary["counts"], summary["score"]
    assert (counts["table_rows"], counts["table_rows_without_label"]) == (len(rows), len(rows) - len(terms))
    assert counts["lookup"] + counts["held_out"] == len(mine)
    assert counts["not_in_data_set"] == len(terms) - len(mine)
    assert counts["labels"] == len(set.union(*terms.values()))
    assert not score["one_label_each"]
    assert score["proteins"] == counts["held_out"]
    assert 0 <= score["fmax"]["carried_over"]["fmax"] <= 1
