"""Proteins that a table of labels names: by id, by accession, none of them twice."""

import random

import numpy as np
import pyarrow as pa
import pytest
from embedome.annotation.label_tables import LabelSource
from embedome.annotation.labels import read_labels
from embedome.annotation.matching import match_labels, positions
from embedome.dataset import open_dataset
from helpers.written_dataset import Protein, write_dataset
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ids of all forms in three splits; some accessions are in several ids, or are ids themselves."""
    rng = random.Random(0)
    accessions = [f"P{number}" for number in rng.sample(range(10**5), 60)]
    forms = ("sp|{}|N", "tr|{}|N", "UniRef50_{}", "UniRef90_{}", "{}", "x|{}|y")
    ids = {rng.choice(forms).format(rng.choice(accessions)) for _ in range(120)}
    proteins = [Protein(name, rng.choice(["train", "val", "test"]), "M" * 9, np.ones(4)) for name in sorted(ids)]
    return open_dataset(write_dataset(tmp_path_factory.mktemp("matching"), proteins, 4, file_rows=7) / "dataset")


def by_loop(ids, table):
    """Proteins with their labels, and what became of the table's ids, by comparison of each with each."""
    labels, fate = {}, {}
    for name, mine in table.items():
        holders = [each for each in ids if each.split("|")[0] in ("sp", "tr") and each.split("|")[1] == name]
        holders += [each for each in ids if each.startswith("UniRef") and each.split("_")[1] == name]
        found = [name] if name in ids else holders
        fate[name] = "exact" if name in ids else {0: "lost", 1: "accession"}.get(len(holders), "ambiguous")
        if len(found) == 1:
            labels.setdefault(found[0], set()).update(mine)
    return labels, fate


@given(st.integers(0, 10**6))
@pytest.mark.slow
def test_each_id_stands_for_what_a_loop_finds(data, tmp_path_factory, seed):
    rng = random.Random(seed)
    ids = sorted(name for table in data.tables(["id"]) for name in table["id"].to_pylist())
    accessions = sorted({name.replace("_", "|").split("|")[min(1, name.count("|") + name.count("_"))] for name in ids})
    asked = rng.sample([*ids, *accessions, *(f"Q{n}" for n in range(30))], 60)
    table = {name: {f"L{rng.randrange(9)}" for _ in range(3)} for name in asked}
    path = tmp_path_factory.mktemp("table") / "t.tsv"
    path.write_text("id\tlabel\n" + "".join(f"{name}\t{';'.join(sorted(mine))}\n" for name, mine in table.items()))
    read = read_labels(LabelSource(path))
    found = match_labels(data, read, ["val"])
    expected, fate = by_loop(set(ids), table)
    names, states = read.names.to_pylist(), list(fate.values())
    got = {
        name: {names[code] for code in found.codes[found.offsets[row] : found.offsets[row + 1]]}
        for row, name in enumerate(found.rows["id"].to_pylist())
    }
    assert got == expected
    assert found.rows["id"].to_pylist() == sorted(expected)
    val = {name for part in data.tables(["id"], "val") for name in part["id"].to_pylist()}
    assert found.rows["held_out"].to_pylist() == [name in val for name in sorted(expected)]
    assert (found.by_accession, found.ambiguous) == (states.count("accession"), states.count("ambiguous"))
    assert found.lost.to_pylist() == sorted(name for name, state in fate.items() if state == "lost")
    assert len(fate) == len(found.rows) + found.same_protein + found.ambiguous + len(found.lost)


def test_ambiguous_accessions_are_named(tmp_path, caplog):
    ids = ["UniRef50_P1", "UniRef90_P1", "sp|P2|A", "tr|P2|B", "tr|P3|C"]
    proteins = [Protein(name, "train", "M" * 9, np.ones(4)) for name in ids]
    data = open_dataset(write_dataset(tmp_path, proteins, 4) / "dataset")
    (tmp_path / "t.tsv").write_text("id\tlabel\nP1\tx\nP2\ty\nP3\tz\n")
    found = match_labels(data, read_labels(LabelSource(tmp_path / "t.tsv")), [])
    assert found.rows["id"].to_pylist() == ["tr|P3|C"]
    assert "2 of the table's ids are accessions of several proteins and count for none" in caplog.text
    assert "'P1' (UniRef50_P1, UniRef90_P1), 'P2' (sp|P2|A, tr|P2|B)" in caplog.text


@given(st.lists(st.one_of(st.none(), st.text("abc", max_size=3))), st.sets(st.text("abc", max_size=3), min_size=1))
def test_positions_are_those_of_a_list(names, among):
    order = sorted(among)
    expected = [order.index(name) if name in among else None for name in names]
    assert positions(pa.array(names, pa.string()), pa.array(order, pa.large_string())).to_pylist() == expected
