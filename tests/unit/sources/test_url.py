"""A file of any address: what is checked, what is recorded, and when a broken download may be gone on with."""

import gzip
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from embedome.common.errors import UserError
from embedome.sources import http
from embedome.sources.partial_download import partial_download
from embedome.sources.url import download_url
from helpers.mirror_server import drop, flipped, redirect, serve, stall, status, trickle, unannounced
from helpers.paths import SCRIPTS

CHANCE = random.Random(4)
PROTEINS = "".join(f">P{k} x\n{''.join(CHANCE.choices('ACDEFGHIKLMNPQRSTVWY', k=300))}\n" for k in range(2500)).encode()
DATA = gzip.compress(PROTEINS, mtime=0)
HALF = len(DATA) // 2
UNIREF = b'<UniRef xmlns="http://uniprot.org/uniref"></UniRef>'


@pytest.fixture
def mirror(mirror):
    mirror.data, mirror.name, mirror.folder = DATA, "stream", "/uniprotkb/"
    mirror.url = f"http://127.0.0.1:{mirror.server_port}/uniprotkb/stream"
    return mirror


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "resources" / "sequences"


def load(url: str, target: Path, **checksums: str | float) -> None:
    download_url(url, "proteome", target, target.parent / "release.json", **checksums)


def fetch(url: str, target: Path, data: bytes = DATA, **checksums: str | float) -> dict:
    load(url, target, **checksums)
    assert target.read_bytes() == data
    assert sorted(path.name for path in target.parent.iterdir()) == ["release.json", "sequences"]
    return json.loads((target.parent / "release.json").read_text())


def refuse(url: str, target: Path, **checksums: str | float) -> str:
    with pytest.raises(UserError) as caught:
        load(url, target, **checksums)
    assert not target.exists()
    assert not (target.parent / "release.json").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left(target: Path) -> bytes | None:
    part = target.with_name(".sequences.part")
    return part.read_bytes() if part.exists() else None


def test_what_came_is_recorded(mirror, target):
    url = mirror.url + "?query=proteome:UP000000807&format=fasta&compressed=true"
    mirror.name = "compressed=true"
    assert fetch(url, target) == {
        "url": url,
        "database": "proteome",
        "release": None,
        "date": mirror.modified,
        "bytes": len(DATA),
        "md5": hashlib.md5(DATA).hexdigest(),
        "sha256": hashlib.sha256(DATA).hexdigest(),
    }


def test_release_is_recorded_where_the_server_names_it(mirror, target):
    names = {"X-UniProt-Release": "2025_03", "X-UniProt-Release-Date": "18-June-2025"}
    mirror.faults = [lambda handler, data: handler.send(200, names, data)]
    record = fetch(mirror.url, target)
    assert (record["release"], record["date"]) == ("2025_03", "18-June-2025")


@pytest.mark.parametrize("data", [PROTEINS, DATA, UNIREF, gzip.compress(UNIREF, mtime=0)])
def test_any_form_that_the_filter_reads(mirror, target, data):
    mirror.data = data
    fetch(mirror.url, target, data)


def test_right_checksums_in_any_case_of_letters(mirror, target):
    sha256 = hashlib.sha256(DATA).hexdigest().upper()
    fetch(mirror.url, target, md5=hashlib.md5(DATA).hexdigest(), sha256=sha256)


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_wrong_checksum_is_refused(mirror, target, kind):
    wrong = "0" * (32 if kind == "md5" else 64)
    right = hashlib.new(kind, DATA).hexdigest()
    assert f"expected {kind} {wrong} (source.{kind}), got {right}" in refuse(mirror.url, target, **{kind: wrong})
    assert list(target.parent.iterdir()) == []
    assert mirror.ranges == [None]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DATA[:-9], "the compressed data end too early"),
        (flipped(DATA), "the compressed data are damaged"),
        (b"<html><body>Sign in</body></html>", "the root element is 'html'"),
        (b"Error", "the file begins with b'Error'; expected a FASTA header"),
        (b"", "the file is empty"),
        (gzip.compress(b" \n", mtime=0), "the file holds white space only"),
    ],
)
def test_what_is_no_whole_file_of_sequences_is_refused(mirror, target, data, message):
    mirror.data = data
    said = refuse(mirror.url, target)
    assert said.startswith(f"{mirror.url}: stream: ")
    assert message in said
    assert ".part" not in said
    assert list(target.parent.iterdir()) == []


# Broken downloads


def test_dropped_connections_are_resumed_where_there_is_a_strong_etag(mirror, target):
    mirror.faults = [drop(HALF), drop(HALF + 1003)]
    fetch(mirror.url, target)
    assert mirror.ranges == [None, f"bytes={HALF}-", f"bytes={HALF + 1003}-"]
    assert mirror.sent == len(DATA)


@pytest.mark.parametrize("etag", [None, 'W/"one"'])
def test_without_a_strong_etag_a_broken_download_starts_from_zero(mirror, target, etag):
    mirror.etag = etag
    mirror.faults = [drop(HALF)]
    fetch(mirror.url, target)
    assert mirror.ranges == [None, None]


@pytest.mark.parametrize("etag", ['"one"', 'W/"one"'])
def test_only_what_can_be_resumed_is_kept(mirror, target, etag):
    mirror.etag = etag
    mirror.faults = [drop(HALF)] * 100
    refuse(mirror.url, target)
    assert left(target) == (DATA[:HALF] if etag == '"one"' else None)


def test_answer_without_length_is_taken_with_a_warning(mirror, target, caplog):
    mirror.faults = [unannounced()]
    fetch(mirror.url, target)
    assert "the server did not say how long the file is" in caplog.text


def test_answer_without_length_that_ends_early_is_seen_by_its_compression(mirror, target, caplog):
    mirror.faults = [unannounced(HALF)]
    fetch(mirror.url, target)
    assert "the compressed data end too early" in caplog.text
    assert mirror.ranges == [None, None]


def test_file_that_changes_between_tries_is_fetched_from_zero(mirror, target):
    def change(handler, data):
        drop(HALF)(handler, bytes(len(data)))
        mirror.etag = '"two"'

    mirror.faults = [change]
    fetch(mirror.url, target)
    assert mirror.ranges == [None, f"bytes={HALF}-"]


def test_pieces_that_do_not_fit_are_fetched_once_more_from_zero(mirror, target):
    mirror.faults = [lambda handler, data: drop(HALF)(handler, flipped(data[: HALF - 9] * 2))]
    fetch(mirror.url, target)
    assert mirror.ranges[-1] is None


def test_answer_longer_than_announced_is_not_taken(mirror, target):
    mirror.faults = [lambda handler, data: handler.send(200, {"Content-Length": str(HALF)}, data)] * 6
    assert "the compressed data end too early" in refuse(mirror.url, target)


@pytest.mark.parametrize("code", [429, 503])
def test_busy_server_is_given_the_time_it_asks_for(mirror, target, monkeypatch, code):
    waits = []
    monkeypatch.setattr(http.time, "sleep", waits.append)
    mirror.faults = [status(code, **{"Retry-After": "3"})]
    fetch(mirror.url, target)
    assert waits == [3.0]


def test_bad_request_is_not_retried(mirror, target):
    mirror.faults = [status(400)]
    assert refuse(mirror.url, target).startswith(
        f"{mirror.url}: stream: HTTP status 400 Bad Request. Check the address"
    )
    assert len(mirror.ranges) == 1


def test_redirect_is_followed_and_the_address_that_was_asked_recorded(mirror, target):
    mirror.faults = [redirect(mirror.url)]
    assert fetch(mirror.url, target)["url"] == mirror.url


@pytest.mark.parametrize("etag", ['"one"', None])
def test_killed_download_is_resumed_where_there_is_a_strong_etag(mirror, target, etag):
    mirror.etag = etag
    mirror.faults = [stall]
    mirror.data = DATA * 3  # several gzip members are a gzip file; the fault stops after the first 400 kB
    code = "import sys; from pathlib import Path\n"
    code += "from embedome.sources import http; from embedome.sources.url import download_url\n"
    code += "http.BLOCK_BYTES = 1 << 14\n"
    code += "download_url(sys.argv[1], 'x', Path(sys.argv[2]), Path(sys.argv[3]))"
    command = [sys.executable, "-c", code, mirror.url, str(target), str(target.parent / "release.json")]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(SCRIPTS)})
    try:
        deadline = time.monotonic() + 20
        while len(left(target) or b"") < 200_000 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    kept = len(left(target))
    fetch(mirror.url, target, DATA * 3)
    assert mirror.ranges == [None, f"bytes={kept}-" if etag else None]


def test_partial_file_of_another_address_is_not_resumed(mirror, target):
    mirror.faults = [drop(HALF)] * 100
    refuse(mirror.url, target)
    assert left(target) == DATA[:HALF]
    mirror.faults, mirror.ranges = [], []
    fetch(mirror.url.replace("127.0.0.1", "localhost"), target)
    assert mirror.ranges == [None]


def test_partial_file_of_a_release_is_not_resumed(mirror, target):
    """Its note needs no ETag, as it has an md5 that would be compared."""
    target.parent.mkdir()
    target.with_name(".sequences.part").write_bytes(DATA[:HALF])
    note = {"url": mirror.url, "bytes": len(DATA), "md5": hashlib.md5(DATA).hexdigest()}
    target.with_name(".sequences.part.json").write_text(json.dumps(note))
    fetch(mirror.url, target)
    assert mirror.ranges == [None]


def test_complete_partial_file_is_checked_without_a_download(mirror, target):
    mirror.faults = [drop(len(DATA) - 1)] * 100
    refuse(mirror.url, target)
    with open(target.with_name(".sequences.part"), "ab") as part:
        part.write(DATA[-1:])
    mirror.ranges = []
    assert fetch(mirror.url, target)["date"] == mirror.modified
    assert mirror.ranges == []


def test_two_downloads_to_one_file_do_not_meet(mirror, target):
    with partial_download(target):
        assert "another process is downloading it" in refuse(mirror.url, target)


# Answers that are no whole file, though their status is 200

ERROR = b"\n\nError encountered when streaming data. Please try again later.\n"
LINE = PROTEINS.index(b"\n", len(PROTEINS) // 2) + 1


def answer(data: bytes, **headers: str):
    """Send other data than the file's, with what a server says when it does not know how long they are."""
    return lambda handler, _: handler.send(200, headers, data)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("at", [LINE, LINE + 100, LINE + 299, LINE - 302, 0])
@pytest.mark.parametrize(
    "error", [ERROR, b"\nInternal Server Error", b"<html>502 Bad Gateway</html>\n", b'\n{"error":1}']
)
def test_an_answer_that_breaks_off_in_words_is_asked_for_again(mirror, target, error, at, pack, caplog):
    mirror.data = pack(PROTEINS)
    mirror.faults = [answer(pack(PROTEINS[:at] + error))]
    fetch(mirror.url, target, mirror.data)
    assert len(mirror.ranges) == 2
    assert "retry 1 of 5" in caplog.text


def test_an_answer_that_breaks_off_each_time_is_refused(mirror, target):
    mirror.faults = [answer(PROTEINS[:LINE] + ERROR)] * 100
    message = refuse(mirror.url, target)
    assert "is no sequence, b'Error encountered when streaming data. Please try again later" in message
    assert "given up after 6 tries" in message
    assert list(target.parent.iterdir()) == []


def test_an_error_in_the_middle_of_a_whole_answer_is_seen(mirror, target):
    mirror.data = PROTEINS
    mirror.faults = [answer(PROTEINS[:LINE] + b"Internal Server Error\n" + PROTEINS[LINE:])]
    fetch(mirror.url, target, PROTEINS)


@pytest.mark.parametrize("data", [PROTEINS[: PROTEINS.rindex(b">")], PROTEINS + b">more\nMKV\n"])
def test_records_are_counted_where_the_server_says_how_many_there_are(mirror, target, data, caplog):
    mirror.data = PROTEINS
    mirror.faults = [answer(data, **{"X-Total-Results": "2500"}), answer(PROTEINS, **{"X-Total-Results": "2500"})]
    fetch(mirror.url, target, PROTEINS)
    assert f"{data.count(b'>'):,} records came of the 2,500 that the server has" in caplog.text


def test_records_of_a_resumed_answer_are_counted_too(mirror, target):
    head = {"ETag": '"one"', "X-Total-Results": "2501", "Content-Length": str(len(DATA))}
    mirror.faults = [answer(DATA[:HALF], **head)] * 6
    mirror.faults[1:] = [drop(HALF + 5), *[answer(DATA, **head)] * 9]
    assert "2,500 records came of the 2,501 that the server has" in refuse(mirror.url, target)


def test_a_page_of_several_is_refused_at_once(mirror, target):
    link = '<https://rest.uniprot.org/uniprotkb/search?cursor=1&size=500>; rel="next"'
    mirror.faults = [answer(PROTEINS, **{"X-Total-Results": "9000", "Link": link})]
    assert "the server gives its records page by page" in refuse(mirror.url, target)
    assert len(mirror.ranges) == 1


def test_xml_that_breaks_off_is_asked_for_again(mirror, target):
    entry = b'<entry id="UniRef50_A"></entry>\n'
    mirror.data = UNIREF.replace(b"></", b">" + entry + b"</")
    mirror.faults = [answer(mirror.data.replace(b"</UniRef>", b"Internal Server Error"))]
    fetch(mirror.url, target, mirror.data)
    assert len(mirror.ranges) == 2


# Addresses


def test_file_gives_a_record_without_its_place(tmp_path, target):
    path = tmp_path / "my proteins.fasta.gz"
    path.write_bytes(DATA)
    record = fetch(path.as_uri(), target)
    assert record["url"] == "my%20proteins.fasta.gz"
    assert str(tmp_path) not in json.dumps(record)
    assert "No such file" in refuse((tmp_path / "none").as_uri(), tmp_path / "other" / "sequences")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "expected http(s)://host"),
        ("ftp://127.0.0.1/x", "expected http(s)://host"),
        ("file://host/x", "expected http(s)://host"),
        ("http:///x", "expected http(s)://host"),
        ("http://user:secret@[::1/x", "is no address (Invalid IPv6 URL)"),
        ("http://user:secret@127.0.0.1/x", "a user's name or password"),
    ],
)
def test_what_is_no_address_is_refused(target, url, message):
    with pytest.raises(UserError) as caught:
        load(url, target)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(mirror, target, monkeypatch):
    monkeypatch.setattr(http, "SPEED_WINDOW_S", 0.2)
    monkeypatch.setattr(http, "LEAST_BYTES_S", 10_000)
    mirror.faults = [trickle] * 6
    began = time.monotonic()
    message = refuse(mirror.url, target)
    # Each try ends when it is seen to be slow, not when the server has done with it, after 3 s.
    assert time.monotonic() - began < 6 * 3
    assert re.search(r"stream: \d+ bytes a second, fewer than 10,000, given up after 6 tries", message)
    # The download is resumed after what has arrived, once the server is quick.
    mirror.faults = [trickle]
    fetch(mirror.url, target)


@pytest.mark.parametrize("fault", [serve, unannounced(), trickle], ids=["of known size", "of unknown size", "slowly"])
def test_a_file_larger_than_may_be_is_not_downloaded(mirror, target, fault):
    mirror.faults = [fault]
    message = refuse(mirror.url, target, max_gb=1e-4)
    assert "stream: more than the 0.0001 GB of source.max_gb" in message
    assert len(mirror.ranges) == 1
    assert left(target) is None
    fetch(mirror.url, target, max_gb=len(DATA) / 1e9)


@pytest.mark.parametrize("header", ["Content-Length", "X-Total-Results", "Retry-After"])
def test_a_number_of_thousands_of_digits_is_as_none(mirror, target, header):
    mirror.data, mirror.faults = PROTEINS, [answer(PROTEINS, **{header: "9" * 5000})]
    fetch(mirror.url, target, PROTEINS)
