"""OBO files: what a term implies, compared with a search through the file's lines."""

import gzip
import random
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from embedome.annotation import ontology as module
from embedome.annotation.ontology import imply_labels, read_ontology
from embedome.common.errors import UserError
from hypothesis import given
from hypothesis import strategies as st

OBO = """format-version: 1.2
ontology: go

[Term]
id: GO:1
name: root
namespace: molecular_function

[Term]
id: GO:2
namespace: molecular_function
alt_id: GO:12
alt_id: GO:22
is_a: GO:1 ! root

[Term]
id: GO:3
namespace: molecular_function
def: "Is a: GO:9 ! no such thing {x}." [GOC:x]
is_a: GO:2 {source="x", is_inferred="true"} ! two
relationship: part_of GO:5 {a="b"} ! five
relationship: regulates GO:6 ! six
intersection_of: GO:6
intersection_of: part_of GO:5

[Term]
id: GO:4
namespace: biological_process

[Term]
id: GO:5
namespace: biological_process
is_a: GO:4

[Term]
id: GO:6
is_a: GO:4
relationship: BFO:0000050 GO:5

[Term]
id: GO:7
is_obsolete: true
replaced_by: GO:12

[Term]
id: GO:8
is_obsolete: true
consider: GO:2

[Term]
id: GO:9
is_obsolete: true
replaced_by: GO:7

[Typedef]
id: part_of
is_a: GO:nothing
"""
IMPLIED = {
    "GO:1": {"GO:1"},
    "GO:3": {"GO:1", "GO:2", "GO:3", "GO:4", "GO:5"},
    "GO:6": {"GO:4", "GO:5", "GO:6"},
    "GO:12": {"GO:1", "GO:2"},
    "GO:22": {"GO:1", "GO:2"},
    "GO:7": {"GO:1", "GO:2"},
    "GO:9": {"GO:1", "GO:2"},
    "GO:8": set(),
    "cytosol": {"cytosol"},
}


@pytest.fixture
def obo(tmp_path):
    path = tmp_path / "go.obo"
    path.write_text(OBO)
    return path


def as_sets(implied, labels):
    names = implied.names.to_pylist()
    ends = implied.offsets
    return {
        label: {names[code] for code in implied.codes[ends[row] : ends[row + 1]]} for row, label in enumerate(labels)
    }


def test_what_labels_imply(obo, caplog):
    labels = sorted(IMPLIED)
    found = imply_labels(read_ontology(obo), pa.array(labels))
    assert as_sets(found, labels) == IMPLIED
    assert {key: found.about[key] for key in ("replaced", "obsolete", "unknown")} == {
        "replaced": 4,
        "obsolete": 1,
        "unknown": 1,
    }
    names = found.names.to_pylist()
    assert [name for name, root in zip(names, found.is_root, strict=True) if root] == ["GO:1", "GO:4"]
    spaces = dict(zip(names, found.namespaces.to_pylist(), strict=True))
    assert (spaces["GO:2"], spaces["GO:5"], spaces["GO:6"], spaces["cytosol"]) == (
        "molecular_function",
        "biological_process",
        None,
        None,
    )
    assert "1 labels are no terms of it, and imply nothing: cytosol" in caplog.text
    assert "1 labels are obsolete and not replaced, and are left out: GO:8" in caplog.text


def test_a_compressed_file_is_read(obo, tmp_path):
    (tmp_path / "go.obo.gz").write_bytes(gzip.compress(OBO.encode()))
    one, other = read_ontology(obo), read_ontology(tmp_path / "go.obo.gz")
    assert (one.parents, one.replaced) == (other.parents, other.replaced)


def random_obo(rng, terms=40):
    """Terms, each with parents of smaller numbers; some alternative ids."""
    lines = ["format-version: 1.4", ""]
    for number in range(terms):
        lines += ["[Term]", f"id: T:{number}"]
        for parent in rng.sample(range(number), min(number, rng.randrange(3))):
            lines.append(rng.choice([f"is_a: T:{parent} ! x", f"relationship: part_of T:{parent} ! y"]))
        if rng.random() < 0.2:
            lines.append(f"alt_id: A:{number}")
        lines.append("")
    return "\n".join(lines)


def implied_by_lines(text):
    """By repeating over the file's lines until nothing is added."""
    pairs, alternative, current = set(), {}, None
    for line in text.splitlines():
        if match := re.match(r"id: (\S+)", line):
            current = match[1]
        elif match := re.match(r"(?:is_a:|relationship: part_of) (\S+)", line):
            pairs.add((current, match[1]))
        elif match := re.match(r"alt_id: (\S+)", line):
            alternative[match[1]] = current
    terms = re.findall(r"^id: (\S+)", text, re.MULTILINE)
    above = {term: {term} for term in terms}
    changed = True
    while changed:
        changed = False
        for child, parent in pairs:
            if not above[parent] <= above[child]:
                above[child] |= above[parent]
                changed = True
    return above | {name: above[term] for name, term in alternative.items()}


@given(st.integers(0, 10**6))
def test_labels_of_proteins_are_propagated_as_by_a_loop(tmp_path_factory, seed):
    rng = random.Random(seed)
    text = random_obo(rng)
    path = tmp_path_factory.mktemp("obo") / "x.obo"
    path.write_text(text)
    above = implied_by_lines(text)
    labels = sorted(rng.sample(sorted(above), 12), key=str.encode)
    proteins = [sorted(rng.sample(range(12), rng.randrange(1, 4))) for _ in range(30)]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in proteins])])
    codes = np.array([code for each in proteins for code in each])
    implied = imply_labels(read_ontology(path), pa.array(labels))
    found_offsets, found_codes = implied.propagate(offsets, codes)
    names = implied.names.to_pylist()
    for row, mine in enumerate(proteins):
        here = found_codes[found_offsets[row] : found_offsets[row + 1]]
        assert list(here) == sorted(here)
        found = Counter(names[code] for code in here)
        assert found == Counter(set().union(*(above[labels[code]] for code in mine)))


def test_blocks_of_proteins_make_no_difference(obo, monkeypatch):
    labels = sorted(IMPLIED)
    implied = imply_labels(read_ontology(obo), pa.array(labels))
    offsets, codes = np.arange(0, 2 * len(labels) + 1, 2), np.tile(np.arange(len(labels)), 2)
    whole = implied.propagate(offsets, codes)
    for size in (1, 2, 5):
        monkeypatch.setattr(module, "BLOCK", size)
        for one, other in zip(whole, implied.propagate(offsets, codes), strict=True):
            assert np.array_equal(one, other)


def test_a_circle_ends(tmp_path):
    (tmp_path / "x.obo").write_text("[Term]\nid: A\nis_a: B\n\n[Term]\nid: B\nis_a: A\n")
    assert read_ontology(tmp_path / "x.obo").implied("A") == {"A", "B"}
    (tmp_path / "y.obo").write_text("[Term]\nid: A\n\n[Term]\nid: B\nis_obsolete: true\nreplaced_by: B\n")
    assert read_ontology(tmp_path / "y.obo").current("B") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no current [Term]; expected an OBO file"),
        (b"id\tlabel\nP1\tGO:1\n", "no current [Term]"),
        (b"[Term]\nname: x\n", "a [Term] has no id"),
        (b"[Term]\nid: A\nis_a: B\n", "A has the parent B, which is no current term of it"),
        (b"[Term]\nid: A\nname: \xff\n", "not a readable OBO file"),
    ],
)
def test_other_files_are_one_line(tmp_path, content, message):
    (tmp_path / "x.obo").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_ontology(tmp_path / "x.obo")
    assert message in str(error.value)
    with pytest.raises(UserError, match=r"none\.obo: no such file"):
        read_ontology(tmp_path / "none.obo")


def test_labels_of_another_ontology_are_refused(obo):
    with pytest.raises(UserError, match=r"none of the 2 labels \('a', …\) is a term of it"):
        imply_labels(read_ontology(obo), pa.array(["a", "b"]))


def test_a_line_of_gigabytes_is_refused(tmp_path, monkeypatch):
    for place in ("common.inputs", "annotation.ontology"):
        monkeypatch.setattr(f"embedome.{place}.MOST_LINE_BYTES", 1 << 20)
    path = tmp_path / "x.obo.gz"
    path.write_bytes(gzip.compress(b"[Term]\nid: " + bytes(2 << 20)))
    with pytest.raises(UserError, match=r"x.obo.gz: a line is longer than 1 MiB; is this a text file\?"):
        read_ontology(path)
