"""Labels carried over and scored with an ontology, compared with sets that are closed by hand."""

import random

import duckdb
import numpy as np
import pytest
from embedome.annotation.annotate import annotate_dataset
from embedome.annotation.label_tables import LabelSource
from embedome.annotation.reference_set import AnnotateSettings
from helpers.written_dataset import Protein, write_dataset

# Two namespaces, each with a root; M:5 is part of a process.
PARENTS = {
    "M:0": [], "M:1": ["M:0"], "M:2": ["M:0"], "M:3": ["M:1"], "M:4": ["M:1", "M:2"], "M:5": ["M:3", "B:2"],
    "B:0": [], "B:1": ["B:0"], "B:2": ["B:0"], "B:3": ["B:1", "B:2"], "B:4": ["B:3"],
}  # fmt: skip
NAMESPACES = {"B": "biological_process", "M": "molecular_function"}
ROOTS = {"M:0", "B:0"}
K = 3


def write_obo(path):
    lines = ["format-version: 1.2", ""]
    for number, (term, parents) in enumerate(PARENTS.items()):
        lines += ["[Term]", f"id: {term}", f"namespace: {NAMESPACES[term[0]]}", f"alt_id: X:{number}"]
        lines += [f"is_a: {each}" if each[0] == term[0] else f"relationship: part_of {each}" for each in parents]
        lines.append("")
    path.write_text("\n".join([*lines, "[Term]", "id: O:1", "is_obsolete: true", ""]))


def closed(terms):
    found = set(terms)
    while more := {parent for term in found for parent in PARENTS[term]} - found:
        found |= more
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Proteins, their terms as they were written, and the annotation's folder and summary."""
    rng, folder = random.Random(3), tmp_path_factory.mktemp("ontology")
    vectors = np.random.default_rng(3)
    names = [f"P{number:03d}" for number in range(150)]
    proteins = [Protein(name, rng.choice(["train", "train", "val"]), "M" * 9, vectors.normal(size=3)) for name in names]
    write_dataset(folder, proteins, 3, file_rows=40)
    write_obo(folder / "go.obo")
    terms = {name: set(rng.sample(sorted(PARENTS), rng.randrange(1, 4))) for name in names if rng.random() < 0.8}
    alternative = {term: f"X:{number}" for number, term in enumerate(PARENTS)}
    lines = [
        f"{name}\t{alternative[term] if rng.random() < 0.2 else term}" for name, mine in terms.items() for term in mine
    ]
    absent = next(name for name in names if name not in terms)
    (folder / "go.tsv").write_text("\n".join(["id\tlabel", *lines, f"{absent}\tO:1"]) + "\n")
    source = LabelSource(folder / "go.tsv", ontology=folder / "go.obo")
    settings = AnnotateSettings(neighbours=K, hold_out=("val",))
    summary = annotate_dataset(folder / "dataset", source, folder / "out", settings)
    return {protein.id: protein for protein in proteins}, terms, folder / "out", summary


@pytest.fixture(scope="module")
def carried_over(run):
    """Reliability by label of each protein, as DuckDB reads it."""
    found = {name: {} for name in run[0]}
    query = f"select id, label, reliability from '{run[2]}/split=*/*.parquet'"
    for name, label, reliability in duckdb.sql(query).fetchall():
        found[name][label] = reliability
    return found


def test_labels_imply_their_ancestors_in_what_is_carried_over(run, carried_over):
    """Reliabilities by a loop over all proteins."""
    proteins, terms, *_ = run
    known = [name for name in terms if proteins[name].split != "val"]
    for name, protein in proteins.items():
        vector = protein.vector.astype(np.float16).astype(float)
        near = sorted(
            (float(np.linalg.norm(vector - proteins[other].vector.astype(np.float16).astype(float))), other)
            for other in known
            if other != name
        )[:K]
        expected = {}
        for distance, other in near:
            for label in closed(terms[other]):
                expected[label] = expected.get(label, 0) + 0.5 / (0.5 + distance) / K
        assert carried_over[name] == pytest.approx(expected, abs=1e-6)


def fmax(truth, predicted):
    """CAFA's: precision over the proteins with a prediction, recall over all, largest F over thresholds."""
    best = 0.0
    for threshold in np.arange(101) / 100:
        precisions, recalls = [], []
        for name, mine in truth.items():
            said = {label for label, score in predicted[name].items() if np.float32(score) >= np.float32(threshold)}
            recalls.append(len(said & mine) / len(mine))
            if said:
                precisions.append(len(said & mine) / len(said))
        if precisions and (total := np.mean(precisions) + np.mean(recalls)):
            best = max(best, 2 * np.mean(precisions) * np.mean(recalls) / total)
    return best


@pytest.mark.parametrize("space", [None, "B", "M"])
def test_fmax_is_that_of_sets(run, carried_over, space):
    proteins, terms, _, summary = run

    def counted(labels):
        return {label for label in labels if label not in ROOTS and space in (None, label[0])}

    truth = {name: counted(closed(mine)) for name, mine in terms.items() if proteins[name].split == "val"}
    truth = {name: mine for name, mine in truth.items() if mine}
    predicted = {name: {label: carried_over[name][label] for label in counted(carried_over[name])} for name in truth}
    score = summary["score"] if space is None else summary["score"]["namespaces"][NAMESPACES[space]]
    assert score["proteins"] == len(truth)
    assert score["fmax"]["carried_over"]["fmax"] == pytest.approx(fmax(truth, predicted), abs=1e-6)
    lookup = [counted(closed(mine)) for name, mine in terms.items() if proteins[name].split != "val"]
    lookup = [mine for mine in lookup if mine]
    share = {label: sum(label in mine for mine in lookup) / len(lookup) for label in counted(PARENTS)}
    naive = {label: value for label, value in share.items() if value}
    assert score["fmax"]["commonest_label"]["fmax"] == pytest.approx(fmax(truth, dict.fromkeys(truth, naive)), abs=1e-6)
    first = {name: min(mine, key=lambda label: (-mine[label], label)) for name, mine in predicted.items() if mine}
    right = sum(label in truth[name] for name, label in first.items())
    assert score["accuracy"]["carried_over"] == pytest.approx(right / len(truth), abs=1e-6)


def test_the_account_closes_and_names_the_ontology(run):
    _, terms, _, summary = run
    counts = summary["counts"]
    assert counts["ids"] == len(terms) + 1
    assert counts["without_current_term"] == 1
    parts = ("lookup", "held_out", "same_protein", "ambiguous", "skipped", "not_in_data_set", "without_current_term")
    assert counts["ids"] == sum(counts[name] for name in parts)
    assert summary["ontology"].keys() == {"sha256", "replaced", "obsolete", "unknown"}
    assert summary["ontology"]["obsolete"] == 1
    assert summary["ontology"]["replaced"] > 0
    assert counts["labels"] == len(PARENTS)
