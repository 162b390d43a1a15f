"""Tables of labels in all their forms, read as Python's csv module reads them."""

import csv
import gzip

import duckdb
import pytest
from embedome.annotation.labels import LabelSource, read_labels
from embedome.common.errors import UserError
from hypothesis import given, settings
from hypothesis import strategies as st

LETTERS = st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Z"], exclude_characters=";,\t\"'")
# A line that begins with # is a comment.
WORDS = st.text(LETTERS, min_size=1).filter(lambda text: not text.startswith("#"))
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
@pytest.mark.slow
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


@pytest.mark.parametrize("name", ["t.tsv", "t.csv"])
def test_what_other_columns_hold_is_no_matter(tmp_path, name):
    """Chromosomes are numbers for more than the megabyte by which types are guessed, then X."""
    rows = [(f"P{number:07d}", "GO:1", str(number % 22 + 1)) for number in range(80_000)]
    path = write(tmp_path / name, [*rows, ("Q1", "GO:2", "X")], ("id", "label", "chromosome"))
    assert path.stat().st_size > 1 << 20
    assert as_dict(read_labels(LabelSource(path)))["Q1"] == ["GO:2"]


def test_a_quoted_line_end_far_down_is_read(tmp_path):
    rows = [(f"P{number:07d}", "GO:1", "x" * 9) for number in range(60_000)]
    path = write(tmp_path / "t.csv", [*rows, ("Q1", "GO:2\n;GO:3", "a\nb")], ("id", "label", "note"))
    assert as_dict(read_labels(LabelSource(path)))["Q1"] == ["GO:2", "GO:3"]


@pytest.mark.parametrize("kind", ["list_", "large_list", "fixed"])
@pytest.mark.parametrize("item", ["string", "binary", "int64"])
def test_lists_of_labels_in_parquet_are_read(tmp_path, kind, item):
    import pyarrow as pa
    import pyarrow.parquet as pq

    one, two, three = (1, 2, 3) if item == "int64" else ("GO:1", "GO:2", "GO:3")
    value = {"string": pa.string(), "binary": pa.binary(), "int64": pa.int64()}[item]
    lists = [[one, None, two], None, [None] * 3, [three, None, None]]
    kind = pa.list_(value, 3) if kind == "fixed" else getattr(pa, kind)(value)
    table = pa.table({"id": ["a", "b", "c", "d"], "label": pa.array(lists, kind)})
    pq.write_table(pa.concat_tables([table.slice(0, 2), table.slice(2)]), tmp_path / "t.parquet", row_group_size=2)
    table = read_labels(LabelSource(tmp_path / "t.parquet"))
    assert as_dict(table) == {"a": [str(one), str(two)], "d": [str(three)]}
    assert (table.rows, table.empty) == (4, 2)


def write_lists(path, lists):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": [f"P{row}" for row in range(len(lists))], "label": lists}), path)
    return path


def test_an_item_of_a_list_is_one_label_whatever_is_in_it(tmp_path):
    path = write_lists(tmp_path / "t.parquet", [["a; b", "c"], [" d,e "], ["", None], [";"]])
    expected = {"P0": ["a; b", "c"], "P1": ["d,e"], "P3": [";"]}
    for separator in (";", ",", ""):
        table = read_labels(LabelSource(path, separator=separator))
        assert as_dict(table) == expected
        assert (table.rows, table.empty) == (4, 1)


@settings(max_examples=60)
@given(ROWS, st.sampled_from([";", ",", "|", " ", "//", "\\d", ".*"]), st.sampled_from(["t.tsv", "t.csv", "t.parquet"]))
def test_any_text_separates(tmp_path_factory, rows, separator, name):
    """Taken as it is, and not as an expression."""
    rows = [(key, [label.strip() for label in labels if separator not in label.strip()]) for key, labels in rows]
    path = tmp_path_factory.mktemp("labels") / name
    joined = [(key, separator.join(labels)) for key, labels in rows]
    if path.suffix == ".parquet":
        duckdb.from_arrow(arrow(joined)).write_parquet(str(path))
    else:
        write(path, joined)
    expected = by_hand([(key, separator.join(labels).split(separator)) for key, labels in rows])
    if expected:
        assert as_dict(read_labels(LabelSource(path, separator=separator))) == expected


def test_without_a_separator_a_row_has_one_label(tmp_path):
    path = write(tmp_path / "t.tsv", [("a", "x; y, z"), ("b", ""), ("a", "w")])
    table = read_labels(LabelSource(path, separator=""))
    assert as_dict(table) == {"a": ["w", "x; y, z"]}
    assert (table.rows, table.empty) == (3, 1)


@pytest.mark.parametrize(
    ("labels", "separator"),
    [
        (["GO:0005524,GO:0004672"], ","),
        (["GO:0005524, GO:0004672", "GO:0005524"], ","),
        (["GO:0005524|GO:0004672"], "|"),
        (["GO:0005524 GO:0004672"], " "),
        (["GO:0005524/GO:0004672"], "/"),
        (["1.1.1.1,2.7.11.-"], ","),
        (["PF00069,PF07714", "PF00069"], ","),
        (["Nucleus,Cytoplasm", "Nucleus", "Cytoplasm"], ","),
        (["Cytoplasm, Membrane", "Membrane, Nucleus", "Nucleus, Cytoplasm"], ","),
        (["['GO:1', 'GO:2']"], ","),
        (["{GO:1,GO:2}"], ","),
        (["IPR000719|K01234"], "|"),
    ],
)
@pytest.mark.parametrize("form", ["t.tsv", "t.parquet"])
def test_labels_that_look_joined_are_reported(tmp_path, caplog, labels, separator, form):
    """In a table, and as an item of a list."""
    path = tmp_path / form
    if form == "t.parquet":
        write_lists(path, [[label] for label in labels])
    else:
        write(path, [(f"P{row}", label) for row, label in enumerate(labels)])
    table = read_labels(LabelSource(path))
    assert table.names.to_pylist() == sorted(labels)
    [record] = caplog.records
    assert f"look like several joined by {separator!r}, for example {labels[0]!r}" in record.getMessage()
    caplog.clear()
    if form == "t.tsv":
        read_labels(LabelSource(path, separator=separator))
        assert f"joined by {separator!r}" not in caplog.text


def test_semicolons_are_reported_where_commas_separate(tmp_path, caplog):
    read_labels(LabelSource(write(tmp_path / "t.tsv", [("P1", "GO:1;GO:2")]), separator=","))
    assert "joined by ';'" in caplog.text


def test_names_with_commas_and_blanks_are_no_joined_labels(tmp_path, caplog):
    names = [
        "dehydrogenase, NAD-dependent",
        "kinase, putative",
        "cell wall",
        "cell",
        "wall",
        "2,3-dihydroxybenzoate",
        "1,4-alpha-glucan",
        "electron transport/NADH",
        "interleukin 1",
        "GO:0005524",
        "a b c",
    ]
    read_labels(LabelSource(write(tmp_path / "t.tsv", [(f"P{row}", name) for row, name in enumerate(names)])))
    assert caplog.records == []


def test_binary_that_is_no_text_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["a"], "label": pa.array([b"\xff"])}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet: a column is no text"):
        read_labels(LabelSource(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", b"id\tname\nP1\tx\n", "t.tsv: no column 'label'; there are id, name"),
        ("t.tsv", b"id\tlabel\nP1\tx\n\ty\n", "t.tsv: row 2 has no id; expected an id"),
        ("t.tsv", b"id\tlabel\n", "t.tsv: no row has a label; expected labels"),
        ("t.tsv", b"id\tlabel\tid\nP1\tx\ty\n", "t.tsv: 2 columns are called 'id'; expected one"),
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
