"""The way of a GAF file: from UniProtKB's FASTA to labels carried over, by the command line."""

import csv
import io
import json

import duckdb
import pytest
from embedome.annotation.label_tables import EXPERIMENTAL
from embedome.cli.main import main
from helpers.gaf_files import gaf_line
from helpers.paths import SHARED_DATA
from helpers.small_run import rough_model

USERS = SHARED_DATA / "users"
FASTA = "".join(
    f">{form.format(f'P1000{number}')} Protein {number} OS=Homo sapiens OX=9606\nMKTAYIAKQR{'ACDEFGHIK'[number] * 9}\n"
    for number, form in enumerate(["sp|{}|A_HUMAN", "tr|{}|B_HUMAN", "UniRef50_{}", "sp|{}|C_HUMAN", "{}"])
)
GAF = "!gaf-version: 2.2\n" + "".join(
    gaf_line(*each) + "\n"
    for each in [
        ("P10000", "enables", "GO:0000001", "IDA"),
        ("P10000", "NOT|enables", "GO:0000002", "IDA"),
        ("P10001", "enables", "GO:0000003", "IEA"),
        ("P10002", "enables", "GO:0000003", "IMP"),
        ("P10003", "enables", "GO:0000001", "EXP"),
        ("P10004", "enables", "GO:0000004", "TAS"),
        ("P10009", "enables", "GO:0000004", "TAS"),
    ]
)


def by_hand(gaf, ids):
    """Terms by id of the FASTA file."""
    accession = {name: name.split("|")[1] if "|" in name else name.split("_")[-1] for name in ids}
    terms = {}
    for row in csv.reader(io.StringIO(gaf), delimiter="\t", quoting=csv.QUOTE_NONE):
        if not row[0].startswith("!") and row[6] in EXPERIMENTAL and "NOT" not in row[3].split("|"):
            terms.setdefault(row[1], set()).add(row[4])
    return {name: sorted(terms[key]) for name, key in accession.items() if key in terms}


def annotate(folder, fasta, gaf, capsys, *options):
    """Embed and annotate; the summary, and terms of the reference set by id, read by DuckDB."""
    (folder / "in.fasta").write_text(fasta)
    (folder / "goa.gaf").write_text(gaf)
    model = rough_model(folder / "model")
    embed = ["embed", str(folder / "in.fasta"), "-m", str(model), "-o", str(folder / "x.parquet")]
    main([*embed, "--device", "cpu", "--workers", "1"])
    capsys.readouterr()
    arguments = ["annotate", str(folder / "x.parquet"), "-l", str(folder / "goa.gaf"), "-o", str(folder / "out")]
    main([*arguments, "--json", *options])
    rows = f"from '{folder}/out/_lookup/rows.parquet'"
    names = [name for (name,) in duckdb.sql(f"select label from '{folder}/out/_lookup/labels.parquet'").fetchall()]
    found = {
        name: [names[code] for code in codes] for name, codes in duckdb.sql(f"select id, labels {rows}").fetchall()
    }
    return json.loads(capsys.readouterr().out), found


def test_a_gaf_file_and_uniprots_fasta_go_together(tmp_path, capsys):
    summary, found = annotate(tmp_path, FASTA, GAF, capsys)
    ids = [line[1:].split()[0] for line in FASTA.splitlines() if line.startswith(">")]
    assert found == by_hand(GAF, ids)
    assert len(found) == 4
    counts = summary["counts"]
    assert counts["table_rows_left_out"] == {"NOT": 1, "IEA": 1}
    assert (counts["ids"], counts["found_by_accession"], counts["not_in_data_set"]) == (5, 3, 1)


def test_evidence_is_chosen(tmp_path, capsys):
    _, found = annotate(tmp_path, FASTA, GAF, capsys, "--evidence", "IEA")
    assert found == {"tr|P10001|B_HUMAN": ["GO:0000003"]}


@pytest.mark.skipif(not USERS.is_dir(), reason="the inputs of the users' reports are not on this machine")
def test_the_recipe_on_the_files_that_a_user_had(tmp_path, capsys):
    fasta, gaf = (USERS / "up.fasta").read_text(), (USERS / "goa.gaf").read_text()
    summary, found = annotate(tmp_path, fasta, gaf, capsys)
    ids = [line[1:].split()[0] for line in fasta.splitlines() if line.startswith(">")]
    assert found == by_hand(gaf, ids)
    assert len(found) > 10
    assert summary["counts"]["found_by_accession"] == summary["counts"]["lookup"] == len(found)
