"""Files, folders and pipes as a user names them."""

import io
import os
import re
import threading
from types import SimpleNamespace

import pytest
from embedome.common.errors import UserError
from embedome.sequences.fasta import read_entries
from embedome.sequences.input_files import check_streams, is_stream, keep_streams, list_files


def test_a_folder_stands_for_the_sequence_files_in_it_by_name(tmp_path):
    for name in ("b.faa.gz", "a.fasta", "README.md", ".c.fasta", "C.FA.XZ", "d/e.fasta"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listed = list_files([tmp_path / "x.fasta", tmp_path])
    assert listed == [tmp_path / "x.fasta", *(str(tmp_path / name) for name in ("C.FA.XZ", "a.fasta", "b.faa.gz"))]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: a folder without sequence files"):
        list_files([tmp_path / "empty"])


def test_standard_input_and_pipes_are_kept_as_files(tmp_path, monkeypatch):
    pipe, plain = tmp_path / "pipe", tmp_path / "plain"
    os.mkfifo(pipe)
    plain.write_bytes(b">p\nMK\n")
    assert [is_stream(path) for path in ("-", pipe, plain, tmp_path / "none")] == [True, True, False, False]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b">s\nMKV\n")))
    threading.Thread(target=pipe.write_bytes, args=[b">f\nMKA\n"], daemon=True).start()
    with keep_streams(["-", plain, pipe], tmp_path) as kept:
        assert [entry.header for path in kept for entry in read_entries(path)] == [b"s", b"p", b"f"]
    assert kept[1] == plain


def test_errors_name_a_stream_as_it_was_typed(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=[b"no FASTA"], daemon=True).start()
    with (
        pytest.raises(UserError, match=f"^{re.escape(str(pipe))}: the file begins with b'no FASTA'"),
        keep_streams([pipe], tmp_path) as kept,
    ):
        list(read_entries(kept[0]))


def test_a_stream_under_two_names_and_one_that_is_closed_are_refused(tmp_path, monkeypatch):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    check_streams(["-", pipe])
    for one, other in (("-", "-"), (pipe, link)):
        with pytest.raises(UserError, match=f"^{re.escape(f'{one} and {other} are one stream; it can be read once')}$"):
            check_streams([one, other])
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="-: standard input is closed; name a file"):
        check_streams(["-"])


def test_where_a_stream_cannot_be_read_the_way_to_do_it_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="-: standard input cannot be read here; write it to a file, and name that"):
        list(read_entries("-"))
    with pytest.raises(UserError, match=r"is a folder; expected a FASTA file: name those in it, .*/\*.fasta"):
        list(read_entries(tmp_path))
