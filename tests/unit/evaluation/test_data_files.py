"""Files of a task: in folders, archives, compressed, one by one."""

import gzip

import pytest
from embedome.common.errors import UserError
from embedome.evaluation.data_files import DataFile, open_sources
from helpers.made_tasks import write_zip

FASTA = ">P1 SET=train\nCHE\nCC\n>P2 SET=test\r\nEE\r\n"


def test_a_file_is_found_by_name_in_a_folder_an_archive_and_compressed(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "sampled.fasta").write_text(FASTA)
    write_zip(tmp_path / "splits.zip", {"sampled.fasta": FASTA})
    (tmp_path / "version_2.sampled.fasta.gz").write_bytes(gzip.compress(FASTA.encode()))
    for path in (folder, tmp_path / "splits.zip", tmp_path / "version_2.sampled.fasta.gz"):
        [source] = open_sources([path])
        assert len(source.files) == 1
        found = source.find("sampled.fasta")
        records = [(header, body) for _, header, body in found.records()]
        assert records == [("P1 SET=train", b"CHECC"), ("P2 SET=test", b"EE")]
        assert source.find("mask.fasta") is None


def test_files_given_one_by_one_belong_together_and_folders_do_not(tmp_path):
    for name in ("a.fasta", "b.fasta", "c.csv"):
        (tmp_path / name).write_text(FASTA)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.fasta").write_text(FASTA)
    sources = open_sources([tmp_path / "a.fasta", tmp_path / "folder", f"val={tmp_path}/c.csv", tmp_path / "b.fasta"])
    assert [[file.name for file in source.files] for source in sources] == [
        ["a.fasta"],
        ["c.csv"],
        ["a.fasta", "b.fasta"],
    ]
    assert [source.split for source in sources] == [None, "val", None]


def test_a_name_that_two_files_bear_is_refused(tmp_path):
    for name in ("one.sampled.fasta", "two.sampled.fasta"):
        (tmp_path / name).write_text(FASTA)
    [source] = open_sources([tmp_path])
    with pytest.raises(UserError, match=r"one.sampled.fasta and .*two.sampled.fasta may both be sampled.fasta"):
        source.find("sampled.fasta")


def test_a_table_has_tabs_or_commas_and_blanks_after_them(tmp_path):
    (tmp_path / "a.csv").write_text("id, label\nP1,H E\n\nP2,\n")
    (tmp_path / "b.tsv").write_text("id\tlabel, more\nP1\tH,E\n")
    rows = [list(DataFile(tmp_path / name).table()) for name in ("a.csv", "b.tsv")]
    assert [fields for _, fields in rows[0]] == [{"id": "P1", "label": "H E"}, {"id": "P2", "label": ""}]
    assert [fields for _, fields in rows[1]] == [{"id": "P1", "label, more": "H,E"}]


def test_faults_name_the_file_and_the_row(tmp_path):
    (tmp_path / "a.csv").write_text("id,label\nP1,H,E\n")
    (tmp_path / "b.csv").write_bytes(b"id,label\nP1,\xff\n")
    (tmp_path / "splits.zip").write_bytes(b"PK no archive")
    with pytest.raises(UserError, match=r"a.csv: row 1 has 3 fields; expected 2"):
        list(DataFile(tmp_path / "a.csv").table())
    with pytest.raises(UserError, match=r"b.csv: is no text in UTF-8"):
        list(DataFile(tmp_path / "b.csv").table())
    with pytest.raises(UserError, match=r"splits.zip: no zip archive, or a damaged one"):
        open_sources([tmp_path / "splits.zip"])
    with pytest.raises(UserError, match=r"nowhere: no such file; check the path"):
        open_sources([tmp_path / "nowhere"])


def test_a_member_that_is_cut_short_is_refused(tmp_path):
    path = write_zip(tmp_path / "splits.zip", {"sampled.fasta": FASTA * 100})
    data = bytearray(path.read_bytes())
    data[80:90] = b"0123456789"
    path.write_bytes(bytes(data))
    [source] = open_sources([path])
    with pytest.raises(UserError, match="the archive cannot be read"):
        list(source.find("sampled.fasta").records())


def test_a_line_of_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("embedome.common.inputs.MOST_LINE_BYTES", 1 << 20)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"id,label\nP1," + bytes(3 << 20)))
    with pytest.raises(UserError, match=r"x.csv.gz: a line is longer than 1 MiB; is this a text file\?"):
        list(DataFile(tmp_path / "x.csv.gz").lines())
