"""How files are read: ids of another part of the header, empty files, nucleotides."""

import logging
import random
from pathlib import Path

import pytest
from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records
from embedome.catalog.reading import REFUSE, ReadSettings
from embedome.common.errors import UserError
from helpers.filtered import Filtered, random_proteins, write_fasta


def read(folder: Path, *fasta: Path, workers: int = 1, **settings: object) -> Filtered:
    """The filter with settings of how files are read."""
    paths = {name: folder / name for name in ("catalog", "rejects", "summary", "members")}
    account = filter_records(fasta, Criteria(), **paths, reading=ReadSettings(**settings), workers=workers)
    return Filtered(**paths, account=account)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_id_by_an_expression_goes_through_the_filter(tmp_path, workers, monkeypatch):
    monkeypatch.setattr("embedome.catalog.filter.RUN_BYTES", 1)
    monkeypatch.setattr("embedome.catalog.filter.CHUNK_BYTES", 40)
    path = write_fasta(tmp_path / "x.fasta", [("sp|P2|B two", "MKV"), ("sp|P1|A one", "MK"), ("none", "MKA")])
    run = read(tmp_path / "out", path, id=r"\|(\w+)\|", workers=workers)
    assert run.rows("id, name") == [("P1", "one"), ("P2", "two")]
    assert run.account["rejected"] == {"no-id": 1}


def test_uniref_xml_has_no_headers(tmp_path):
    path = tmp_path / "x.xml"
    path.write_text("<UniRef50 xmlns='http://uniprot.org/uniref'><entry></entry></UniRef50>")
    with pytest.raises(UserError, match=r"x.xml: UniRef XML, which has no headers; expected FASTA, as source.id"):
        read(tmp_path / "out", path, id=2)


@pytest.mark.parametrize("empty", [b"", b" \n\n"])
def test_empty_files_among_others_are_passed_over_where_asked_for(tmp_path, caplog, empty):
    nothing, some = tmp_path / "a.fasta", write_fasta(tmp_path / "b.fasta", [("x", "MK")])
    nothing.write_bytes(empty)
    with pytest.raises(UserError, match=r"a.fasta: the file (is empty|holds white space only)"):
        read(tmp_path / "out", nothing, some)
    run = read(tmp_path / "out", nothing, some, skip_empty=True)
    assert run.rows("id, record") == [("x", 0)]
    assert [(each["file"], each["records"]) for each in run.account["inputs"]] == [("a.fasta", 0), ("b.fasta", 1)]
    assert f"{nothing}: holds no record, and is passed over" in caplog.text
    with pytest.raises(UserError, match="no record of 0 was kept"):
        read(tmp_path / "out", nothing, skip_empty=True)
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "out", tmp_path / "missing", skip_empty=True)


def test_dna_among_proteins_is_warned_of_or_refused(tmp_path, caplog):
    chance = random.Random(0)
    genes = [(f"g{number}", "".join(chance.choices("ACGTN", [9, 9, 9, 9, 1], k=200))) for number in range(3)]
    proteins = random_proteins(300)
    path = write_fasta(tmp_path / "x.fasta", [*proteins, *genes, ("rna", "ACGU" * 30), ("short", "ACGT")])
    said = "x.fasta: 4 records look like DNA or RNA, the first is record 301: nearly all of their letters are ACGTUN"
    with caplog.at_level(logging.WARNING):
        run = read(tmp_path / "out", path)
    assert f"{said}; they are taken for proteins" in caplog.text
    assert run.account["kept"] == 305
    with pytest.raises(UserError) as caught:
        read(tmp_path / "out", path, nucleotides=REFUSE)
    assert said in str(caught.value)
    caplog.clear()
    read(tmp_path / "out", write_fasta(tmp_path / "x.fasta", proteins), nucleotides=REFUSE)
    assert "DNA" not in caplog.text


def test_very_many_records_of_nothing_stop_the_run_early(tmp_path, monkeypatch):
    monkeypatch.setattr("embedome.catalog.chunk_groups.RUN_ENTRIES", 100)
    monkeypatch.setattr("embedome.catalog.chunk_groups.CHUNK_ENTRIES", 30)
    path = tmp_path / "x.fasta"
    path.write_bytes(b">\n" * 1000 + b">a\nMK\n")
    assert read(tmp_path / "out", path).account["rejected"] == {"no-id": 1000}
    monkeypatch.setattr("embedome.catalog.reading.MOST_NAMELESS", 500)
    with pytest.raises(
        UserError, match=r"x.fasta: more than 500 records have no id; expected FASTA with an id in each"
    ):
        read(tmp_path / "out", path)
