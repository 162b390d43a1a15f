"""Tables of labels in all their forms, read as Python's csv module reads them."""

import csv
import gzip

import duckdb
import pytest
from embedome.errors import UserError
from embedome.labels import LabelSource, read_labels
from hypothesis import given, settings
from hypothesis import strategies as st

LETTERS = st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Z"], exclude_characters=";,\t\"'")
WORDS = st.text(LETTERS, min_size=1)
LABELS = st.lists(st.one_of(WORDS, st.sampled_from(["", " GO:1 ", "a b"])), max_size=3)
ROWS = st.lists(st.tuples(WORDS, LABELS), min_size=1)


def as_dict(table):
    """Labels by id, as a user sees them."""
    names, ids = table.names.to_pylist(), table.ids.to_pylist()
    assert names == sorted(names, key=str.encode)
    assert ids == sorted(ids, key=str.encode)
    bounds = zip(table.offsets, table.offsets[1:], strict=False)
    return {name: [names[code] for code in table.codes[i:j]] for name, (i, j) in zip(ids, bounds, strict=True)}


def by_hand(rows):
    found = {}
    for name, labels in rows:
        for label in labels:
            if label.strip():
                found.setdefault(name, set()).add(label.strip())
    return {name: sorted(labels, key=str.encode) for name, labels in found.items()}


def write(path, rows, header=("id", "label")):
    """A table by Python's csv module; in .tsv nothing is quoted."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as stream:
        if ".csv" in path.name.lower():
            csv.writer(stream).writerows([header, *rows])
        else:
            stream.write("".join("\t".join(row) + "\n" for row in [header, *rows]))
    return path


@settings(max_examples=60)
@given(ROWS, st.sampled_from(["t.tsv", "t.csv", "t.tsv.gz", "t.CSV.gz", "t.parquet"]))
def test_every_form_gives_the_labels_of_each_id(tmp_path_factory, rows, name):
    path = tmp_path_factory.mktemp("labels") / name
    joined = [(name, ";".join(labels)) for name, labels in rows]
    if path.suffix == ".parquet":
        duckdb.from_arrow(arrow(joined)).write_parquet(str(path))
    else:
        write(path, joined)
    expected = by_hand(rows)
    if not expected:
        with pytest.raises(UserError, match="no row has a label"):
            read_labels(LabelSource(path))
        return
    table = read_labels(LabelSource(path))
    assert as_dict(table) == expected
    assert table.rows == len(rows)
    assert table.empty == sum(not any(label.strip() for label in labels) for _, labels in rows)


def arrow(rows):
    import pyarrow as pa

    return pa.table({"id": [row[0] for row in rows], "label": [row[1] for row in rows]})


def test_columns_are_named_and_others_are_passed_over(tmp_path):
    path = write(tmp_path / "t.csv", [("7", "x, y", "Q1"), ("8", "", "Q2")], ("length", "location", "accession"))
    table = read_labels(LabelSource(path, "accession", "location"))
    assert as_dict(table) == {"Q1": ["x, y"]}
    assert (table.rows, table.empty) == (2, 1)


def test_quotes_in_tsv_are_letters_and_numbers_stay_text(tmp_path):
    path = write(tmp_path / "t.tsv", [("001", '5"-nucleotidase'), ("1e5", "1.10.150.0")])
    assert as_dict(read_labels(LabelSource(path))) == {"001": ['5"-nucleotidase'], "1e5": ["1.10.150.0"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", b"id\tname\nP1\tx\n", "t.tsv: no column 'label'; there are id, name"),
        ("t.tsv", b"id\tlabel\nP1\tx\n\ty\n", "t.tsv: row 2 has no id; expected an id"),
        ("t.tsv", b"id\tlabel\n", "t.tsv: no row has a label; expected labels"),
        ("t.csv", b"id,label\nP1,x,y\n", "t.csv: not a readable table"),
        ("t.csv", b"", "t.csv: not a readable table"),
        ("t.tsv.gz", b"id\tlabel\n", "t.tsv.gz: not a readable table"),
        ("t.parquet", b"PAR1", "t.parquet: not a readable Parquet file"),
        ("t.xlsx", b"PK", "t.xlsx: cannot tell what it is; expected a name that ends in .tsv, .csv"),
    ],
)
def test_a_faulty_table_is_one_line_that_names_it(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_labels(LabelSource(tmp_path / name))
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["t.tsv", "t.parquet"])
def test_a_missing_table_is_said_to_be_missing(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: no such file"):
        read_labels(LabelSource(tmp_path / name))
