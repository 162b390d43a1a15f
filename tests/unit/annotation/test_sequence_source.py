"""A largest identity for the one file of `embedome embed`, whose sequences are in FASTA files."""

import gzip
import json

import duckdb
import pytest
from embedome.annotation.sequence_source import FastaSequences
from embedome.cli.main import main
from embedome.common.errors import UserError
from embedome.sequences.digests import refget_digest
from helpers.small_run import random_records, rough_model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two FASTA files, one compressed, with pairs of near copies; the Parquet file of both, and labels."""
    folder = tmp_path_factory.mktemp("fasta")
    records = random_records(3, [30] * 20)
    near = [(f"N{name}", f"{sequence[:-2]}WW") for name, sequence in records]
    (folder / "one.fasta").write_text("".join(f">{name} x\n{sequence}\n" for name, sequence in records))
    text = "".join(f">{name}\n{sequence[:10].lower()}\n{sequence[10:]}*\n" for name, sequence in near)
    (folder / "two.fasta.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "labels.tsv").write_text("id\tlabel\n" + "".join(f"{name}\t{name}\n" for name, _ in records))
    model = rough_model(folder / "model")
    fasta = [str(folder / "one.fasta"), str(folder / "two.fasta.gz")]
    main(["embed", *fasta, "-m", str(model), "-o", str(folder / "x.parquet"), "--device", "cpu", "--workers", "1"])
    return folder


def annotate(files, out, *options):
    arguments = ["annotate", str(files / "x.parquet"), "-l", str(files / "labels.tsv"), "-o", str(out), "-k", "1"]
    main([*arguments, *options])
    return duckdb.sql(f"select id, label from '{out}/split=*/*.parquet' where rank = 1").fetchall()


def test_near_copies_are_left_out_by_the_sequences_of_the_fasta_files(files, tmp_path, capsys):
    fasta = ["--fasta", str(files / "one.fasta"), str(files / "two.fasta.gz")]
    without = dict(annotate(files, tmp_path / "without"))
    assert sum(label == name[1:] for name, label in without.items()) > 15
    capsys.readouterr()
    found = dict(annotate(files, tmp_path / "with", "--max-identity", "0.8", *fasta, "--json"))
    assert not any(label == name[1:] for name, label in found.items())
    assert len(found) == 40
    left_out = json.loads(capsys.readouterr().out)["splits"]["all"]["left_out"]
    assert left_out["above_max_identity"] >= 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [],
            "a largest identity needs the sequences; name the catalog of the run, results/catalog, or the FASTA files",
        ),
        (["--fasta", "{}/two.fasta.gz"], "no record has the sequence of 'P0000'; name all files that were embedded"),
        (["--fasta", "{}/two.fasta.gz", "--catalog", "x"], "--fasta and --catalog both name the sequences"),
        (["--fasta", "{}/none.fasta"], "none.fasta: no such file"),
    ],
)
def test_what_is_missing_is_named(files, tmp_path, options, message, capsys):
    with pytest.raises(SystemExit):
        annotate(files, tmp_path / "out", "--max-identity", "0.8", *(option.format(files) for option in options))
    assert message in capsys.readouterr().err


def test_sequences_are_known_by_their_digests_whatever_their_ids_are(tmp_path):
    (tmp_path / "x.fasta").write_text(">P1\nMKTA\n>P2\nMK1A\n>P3\nMKTV\n")
    source = FastaSequences([tmp_path / "x.fasta"])
    digests = [refget_digest(text) for text in (b"MKTV", b"MKTA")]
    assert source.read(["other", "names"], digests).to_pylist() == ["MKTV", "MKTA"]
    with pytest.raises(UserError, match="no record has the sequence of 'P2'"):
        source.read(["P1", "P2"], [digests[1], refget_digest(b"MK1A")])
