"""GAF files as they are, and what people write into tables besides: comments, blanks, lines of other lengths."""

import gzip

import pytest
from embedome.annotation import label_tables
from embedome.annotation.label_tables import ALL_EVIDENCE, EVIDENCE, EXPERIMENTAL, LabelRows, LabelSource
from embedome.common.errors import UserError
from helpers.gaf_files import gaf_line
from helpers.paths import SHARED_DATA
from helpers.processes import output_of

# Database, id, qualifier, term and evidence of each row; the rest of a row is made up.
ANNOTATIONS = [
    ("P1", "enables", "GO:0000001", "IDA"),
    ("P1", "NOT|enables", "GO:0000002", "IDA"),
    ("P1", "enables", "GO:0000003", "IEA"),
    ("P2", "NOT", "GO:0000002", "EXP"),
    ("P2", "acts_upstream_of_or_within|not", "GO:0000004", "IMP"),
    ("P2", "", "GO:0000001", "TAS"),
    ("P2", "contributes_to", "GO:0000005", "HDA"),
    ("P3", "NOTHING|enables", "GO:0000006", "IPI"),
    ("P3", "located_in", "GO:0000007", "ND"),
]


def write_gaf(path, annotations=ANNOTATIONS, columns=17, end="\n"):
    lines = [
        "!gaf-version: 2.2",
        "!\ta\tcomment\twith\ttabs",
        *(gaf_line(*each, columns) for each in annotations),
        "!end",
    ]
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as stream:
        stream.write(end.join(lines) + end)
    return path


def pairs(source):
    return [
        row for table in LabelRows(source) for row in zip(*(table[n].to_pylist() for n in ("id", "label")), strict=True)
    ]


def by_loop(evidence):
    chosen = EVIDENCE if ALL_EVIDENCE in evidence else evidence
    return [
        (name, term)
        for name, qualifier, term, code in ANNOTATIONS
        if code in chosen and "NOT" not in qualifier.upper().split("|")
    ]


@pytest.mark.parametrize("evidence", [EXPERIMENTAL, ("IEA",), ("IDA", "HDA"), (ALL_EVIDENCE,)])
@pytest.mark.parametrize("name", ["goa.gaf", "goa.gaf.gz", "GOA.GAF"])
@pytest.mark.parametrize("columns", [15, 17])
def test_a_gaf_file_is_read_as_it_is(tmp_path, evidence, name, columns):
    path = write_gaf(tmp_path / name, columns=columns)
    assert pairs(LabelSource(path, evidence=evidence)) == by_loop(evidence)


def test_what_is_left_out_is_counted_by_reason(tmp_path, caplog):
    caplog.set_level("INFO")
    rows = LabelRows(LabelSource(write_gaf(tmp_path / "goa.gaf")))
    assert sum(map(len, rows)) == 3
    assert dict(+rows.left_out) == {"NOT": 3, "IEA": 1, "HDA": 1, "ND": 1}
    assert "6 of 9 rows are left out (NOT 3, " in caplog.text


def test_blocks_are_cut_anywhere(tmp_path, monkeypatch):
    for end in ("\n", "\r\n"):
        path = write_gaf(tmp_path / "goa.gaf", end=end)
        for size in (1, 7, 100, 10_000):
            monkeypatch.setattr(label_tables, "BLOCK_BYTES", size)
            assert pairs(LabelSource(path)) == by_loop(EXPERIMENTAL)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("UniProtKB\tP1\tx\n", {}, "row 1 has 3 columns; expected 15 or more, as GAF files have"),
        (gaf_line(*ANNOTATIONS[0]), {"evidence": ("IDA", "XYZ")}, "no evidence code 'XYZ'; expected some of EXP, IDA"),
        (gaf_line(*ANNOTATIONS[0]), {"id_column": "accession"}, "a GAF file has columns of its own"),
    ],
)
def test_a_faulty_gaf_file_is_one_line(tmp_path, content, options, message):
    (tmp_path / "goa.gaf").write_text(content)
    with pytest.raises(UserError, match=message):
        pairs(LabelSource(tmp_path / "goa.gaf", **options))


TABLES = {
    "comments": "# made by hand\nid,label\n#P9,x\nP1,a\n# more, to say, of it\nP2,b\n",
    "names in a comment": "# made by hand\n#id,label\nP1,a\nP2,b\n",
    "blanks": "id ,label \nP1 , a\n  P2,b  \n",
    "blank lines": "\nid,label\n\nP1,a\n\nP2,b\n\n",
    "mark": "\ufeffid,label\nP1,a\nP2,b\n",
    "line ends": "id,label\r\nP1,a\r\nP2,b\r\n",
    "no end": "id,label\nP1,a\nP2,b",
}
TABS = {
    "tabs at the end": "id\tlabel\nP1\ta\t\nP2\tb\t \n",
    "lines of tabs": "id\tlabel\nP1\ta\nP2\tb\n\t\n \t \n",
    "ends taken off": "id\tlabel\tnote\nP1\ta\nP2\tb\tx\n",
}


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.tsv.gz"])
@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES.keys())
def test_comments_and_blanks_are_no_matter(tmp_path, name, content):
    check_table(tmp_path / name, content if name == "t.csv" else content.replace(",", "\t"))


@pytest.mark.parametrize("content", TABS.values(), ids=TABS.keys())
def test_tabs_at_the_end_are_no_matter(tmp_path, content):
    check_table(tmp_path / "t.tsv", content)


def check_table(path, content):
    from embedome.annotation.labels import read_labels

    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    table = read_labels(LabelSource(path))
    assert (table.ids.to_pylist(), table.names.to_pylist()) == (["P1", "P2"], ["a", "b"])
    assert (table.rows, table.empty) == (2, 0)


def test_comments_are_counted(tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("t.csv", "t.tsv"):
        (tmp_path / name).write_text(TABLES["comments"].replace(",", "," if name == "t.csv" else "\t"))
        pairs(LabelSource(tmp_path / name))
        assert f"{name}: 3 lines that begin with # are passed over as comments" in caplog.text


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_line_with_more_columns_is_an_error(tmp_path, name):
    text = "id,label\nP1,a\nP2,b,c\n"
    (tmp_path / name).write_text(text if name == "t.csv" else text.replace(",", "\t"))
    with pytest.raises(UserError, match="not a readable table"):
        pairs(LabelSource(tmp_path / name))


USERS = SHARED_DATA / "users"


@pytest.mark.skipif(not USERS.is_dir(), reason="the inputs of the users' reports are not on this machine")
def test_the_gaf_file_that_a_user_had_is_read():
    import csv

    with open(USERS / "goa.gaf") as stream:
        lines = [
            line for line in csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE) if not line[0].startswith("!")
        ]
    expected = [(row[1], row[4]) for row in lines if row[6] in EXPERIMENTAL and "NOT" not in row[3].split("|")]
    assert 0 < len(expected) < len(lines)
    assert pairs(LabelSource(USERS / "goa.gaf")) == expected


def test_a_line_whose_label_was_taken_off_with_its_tab_has_none(tmp_path):
    from embedome.annotation.labels import read_labels

    (tmp_path / "t.tsv").write_text("id\tlabel\nP1\ta\nP2\n")
    table = read_labels(LabelSource(tmp_path / "t.tsv"))
    assert (table.ids.to_pylist(), table.rows, table.empty) == (["P1"], 2, 1)


def test_a_line_of_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(label_tables, "BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr("embedome.common.inputs.MOST_LINE_BYTES", 1 << 20)
    path = tmp_path / "x.tsv.gz"
    path.write_bytes(gzip.compress(b"id\tlabel\nP1\t" + bytes(2 << 20)))
    with pytest.raises(UserError, match=r"x.tsv.gz: a line is longer than 1 MiB; is this a text file\?"):
        pairs(LabelSource(path))


STREAM = """
from embedome.annotation import label_tables
from embedome.annotation.label_tables import LabelRows, LabelSource
from embedome.common.process import peak_memory
label_tables.BLOCK_BYTES = 1 << 18
print(sum(len(rows) for rows in LabelRows(LabelSource(sys.argv[1]))), peak_memory())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.tsv", "x.csv", "x.gaf"])
def test_memory_of_reading_a_table_does_not_grow_with_it(tmp_path, name):
    path, rows, again, peaks, sizes = tmp_path / name, 100_000, 4, [], []
    line = {
        "x.gaf": gaf_line("P1", "enables", "GO:0000001", "IDA", 17),
        "x.tsv": f"P1\tGO:1\t{'x' * 100}",
        "x.csv": f"P1,GO:1,{'x' * 100}",
    }
    head = {"x.gaf": "!gaf-version: 2.2", "x.tsv": "id\tlabel\tother", "x.csv": "id,label,other"}
    for count in (rows, again * rows):
        path.write_text(f"{head[name]}\n" + f"{line[name]}\n" * count)
        read, peak = map(int, output_of(STREAM, path).split())
        assert read == count
        peaks.append(peak)
        sizes.append(path.stat().st_size)
    assert peaks[1] - peaks[0] < (sizes[1] - sizes[0]) / 2, (peaks, sizes)
