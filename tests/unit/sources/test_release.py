"""The download of a release, against a server on this machine that misbehaves on demand, and against folders."""

import email.utils
import errno
import hashlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from embedome.common.errors import UserError
from embedome.sources import http, mirrors, release
from helpers.mirror_server import (
    DATA,
    HALF,
    METALINK,
    NAME,
    STALL_S,
    Handler,
    corrupt,
    drop,
    flipped,
    ignore_range,
    metalink,
    redirect,
    stall,
    status,
    unannounced,
)
from helpers.paths import SCRIPTS


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "resources" / NAME


def fetch(target: Path, *mirrors: str) -> dict:
    """Download to `target`, check that it is whole and alone with its record, return the record."""
    record = target.parent / "release.json"
    release.download_release(mirrors, "uniref50", target, record)
    assert target.read_bytes() == DATA
    assert sorted(path.name for path in target.parent.iterdir()) == ["release.json", NAME]
    return json.loads(record.read_text())


def refuse(target: Path, *mirrors: str) -> str:
    """Fail to download, leaving neither file nor record; return the one line."""
    with pytest.raises(UserError) as caught:
        release.download_release(mirrors, "uniref50", target, target.parent / "release.json")
    assert not target.exists()
    assert not (target.parent / "release.json").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left(target: Path) -> bytes | None:
    """What the partial file holds; None where there is none."""
    part = target.with_name(f".{NAME}.part")
    return part.read_bytes() if part.exists() else None


# A server


def test_good_server_gives_the_file_and_its_record(mirror, target):
    assert fetch(target, mirror.url + "/") == {
        "url": f"{mirror.url}/{NAME}",
        "database": "uniref50",
        "release": "2025_03",
        "date": mirror.modified,
        "bytes": len(DATA),
        "md5": hashlib.md5(DATA).hexdigest(),
        "sha256": hashlib.sha256(DATA).hexdigest(),
    }
    assert mirror.ranges == [None]
    assert mirror.sent == len(DATA)


def test_dropped_connections_are_resumed_without_a_byte_sent_twice(mirror, target):
    mirror.faults = [drop(HALF), drop(HALF + 100_003)]
    fetch(target, mirror.url)
    assert mirror.ranges == [None, f"bytes={HALF}-", f"bytes={HALF + 100_003}-"]
    assert mirror.sent == len(DATA)


def test_end_of_an_answer_without_length_counts_as_a_broken_connection(mirror, target):
    mirror.faults = [unannounced(HALF)]
    fetch(target, mirror.url)
    assert mirror.ranges == [None, f"bytes={HALF}-"]


def test_server_that_ignores_ranges_starts_from_zero(mirror, target):
    mirror.faults = [drop(), ignore_range]
    fetch(target, mirror.url)
    assert mirror.sent == HALF + len(DATA)


def test_server_without_validators_is_resumed_and_the_md5_decides(mirror, target):
    mirror.etag = mirror.modified = None
    mirror.faults = [drop()]
    fetch(target, mirror.url)
    assert mirror.sent == len(DATA)


def test_pieces_that_do_not_fit_are_fetched_once_more_from_zero(mirror, target):
    mirror.etag = mirror.modified = None
    mirror.faults = [lambda handler, data: drop()(handler, bytes(len(data)))]
    fetch(target, mirror.url)
    assert mirror.ranges == [None, f"bytes={HALF}-", None]


def test_never_ending_drops_are_given_up_and_the_part_is_kept(mirror, target):
    mirror.faults = [drop(HALF)] * 100
    message = refuse(target, mirror.url)
    assert f"the connection ended after {HALF} of {len(DATA)} bytes" in message or "IncompleteRead" in message
    assert f"given up after {http.RETRIES + 1} tries" in message
    assert len(mirror.ranges) == http.RETRIES + 1
    assert left(target) == DATA[:HALF]
    mirror.faults = []
    fetch(target, mirror.url)
    assert mirror.ranges[-1] == f"bytes={HALF}-"


def test_the_count_of_retries_starts_again_when_the_download_gets_further(mirror, target, monkeypatch):
    monkeypatch.setattr(http, "PROGRESS_BYTES", 50_000)
    mirror.faults = [drop(at) for at in range(60_000, 900_000, 60_000)]
    assert len(mirror.faults) > 2 * http.RETRIES
    fetch(target, mirror.url)
    assert mirror.sent == len(DATA)


def test_drops_without_ranges_end_although_each_try_brings_bytes(mirror, target, monkeypatch):
    monkeypatch.setattr(http, "PROGRESS_BYTES", 1)
    mirror.faults = [unannounced(HALF)] * 100
    refuse(target, mirror.url)
    assert len(mirror.ranges) <= http.RETRIES + 2


@pytest.mark.parametrize("validator", ["etag", "modified", "weak etag"])
def test_file_that_changes_between_tries_is_fetched_from_zero(mirror, target, validator, caplog):
    def change(handler: Handler, data: bytes) -> None:
        drop()(handler, bytes(len(data)))
        mirror.etag = {"etag": '"two"', "weak etag": 'W/"two"'}.get(validator)
        mirror.modified = "Thu, 19 Jun 2025 12:00:00 GMT" if validator == "modified" else None

    mirror.etag = {"etag": '"one"', "weak etag": 'W/"one"'}.get(validator)
    mirror.modified = "Wed, 18 Jun 2025 12:00:00 GMT" if validator == "modified" else None
    mirror.faults = [change]
    fetch(target, mirror.url)
    if validator == "weak etag":  # cannot be asked for: seen in the answer, which is not appended
        assert mirror.ranges == [None, f"bytes={HALF}-", None]
        assert "not the one that was begun" in caplog.text
    else:  # asked for with If-Range: the second answer is the whole file
        assert mirror.ranges == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize("span", ["bytes 0-{last}/{size}", "bytes {half}-{last}/7", "", "nonsense"])
def test_answer_with_a_wrong_range_is_not_appended(mirror, target, span):
    content_range = span.format(half=HALF, last=len(DATA) - 1, size=len(DATA))
    wrong = {"Content-Range": content_range, "Content-Length": str(len(DATA) - HALF)}
    mirror.faults = [drop(), lambda handler, data: handler.send(206, wrong, data[HALF:])]
    fetch(target, mirror.url)
    assert mirror.ranges == [None, f"bytes={HALF}-", None]


def test_range_that_the_server_refuses_starts_from_zero(mirror, target):
    mirror.faults = [drop(), status(416)]
    fetch(target, mirror.url)
    assert mirror.ranges == [None, f"bytes={HALF}-", None]


def test_file_of_the_wrong_size_is_refused_before_it_is_downloaded(mirror, target):
    mirror.data = DATA[:HALF]
    message = refuse(target, mirror.url)
    assert f"{NAME}: expected {len(DATA)} bytes (RELEASE.metalink), got {HALF} bytes" in message
    assert len(mirror.ranges) == 1
    assert left(target) is None


def test_endless_answer_is_cut_off(mirror, target):
    mirror.data = DATA * 10
    mirror.faults = [unannounced()] * 10
    message = refuse(target, mirror.url)
    got = int(re.search(rf"expected {len(DATA)} bytes with .*, got (\d+) bytes", message)[1])
    assert len(DATA) < got <= len(DATA) + http.BLOCK_BYTES
    assert left(target) is None


def test_part_that_holds_nothing_is_removed(mirror, target):
    mirror.faults = [drop(0)] * 100
    refuse(target, mirror.url)
    assert list(target.parent.iterdir()) == []


def test_file_declared_as_compressed_arrives_as_it_lies_there(mirror, target):
    asked = []

    def gzipped(handler: Handler, data: bytes) -> None:
        asked.append(handler.headers["Accept-Encoding"])
        handler.send(200, {"Content-Encoding": "x-gzip", "Content-Length": str(len(data))}, data)

    mirror.faults = [gzipped]
    fetch(target, mirror.url)
    assert asked == ["identity"]


def test_corrupt_file_is_removed_and_named(mirror, target):
    mirror.faults = [corrupt]
    message = refuse(target, mirror.url)
    md5s = [hashlib.md5(data).hexdigest() for data in (DATA, flipped(DATA))]
    assert message.startswith(f"{NAME}: no mirror gave a verified copy: {mirror.url}: {NAME}: expected")
    assert f"with md5 {md5s[0]} (RELEASE.metalink), got {len(DATA)} bytes with md5 {md5s[1]}" in message
    assert len(mirror.ranges) == 1
    assert left(target) is None


def test_redirects_are_followed_and_resumed(server, target):
    mirror, elsewhere = server(), server()
    mirror.faults = [redirect(f"{elsewhere.url}/{NAME}")] * 2
    elsewhere.faults = [drop()]
    assert fetch(target, mirror.url)["url"] == f"{mirror.url}/{NAME}"
    assert elsewhere.ranges == [None, f"bytes={HALF}-"]
    assert elsewhere.sent == len(DATA)


def test_redirect_loop_and_redirect_off_the_web_fail(mirror, target):
    mirror.faults = [redirect(f"{mirror.url}/{NAME}")] * 100
    assert "30 redirects" in refuse(target, mirror.url)
    mirror.faults = [redirect("file:///etc/hostname")]
    assert "file:///etc/hostname" in refuse(target, mirror.url)


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), ("7200", 120.0), ("date", 60.0), ("soon", 0.001)])
def test_busy_server_is_given_the_time_it_asks_for(mirror, target, monkeypatch, code, header, seconds):
    waits = []
    monkeypatch.setattr(http.time, "sleep", waits.append)
    header = email.utils.formatdate(time.time() + 60, usegmt=True) if header == "date" else header
    mirror.faults = [status(code, **{"Retry-After": header})]
    fetch(target, mirror.url)
    assert waits == [pytest.approx(seconds, abs=2 if seconds == 60 else 0)]


def test_waits_double_up_to_the_cap(mirror, target, monkeypatch):
    waits = []
    monkeypatch.setattr(http.time, "sleep", waits.append)
    monkeypatch.setattr(http, "BACKOFF_S", 10.0)
    mirror.faults = [status(500)] * 100
    assert f"{NAME}: HTTP status 500 Internal Server Error, given up after 6 tries" in refuse(target, mirror.url)
    assert waits == [10, 20, 40, 60, 60]


def test_metalink_is_retried_too(mirror, target):
    mirror.metalink_faults = [status(503), drop(100)]
    fetch(target, mirror.url)


def test_missing_file_is_not_retried(mirror, target):
    mirror.faults = [status(404)]
    assert f"{mirror.url}: {NAME}: HTTP status 404 Not Found" in refuse(target, mirror.url)
    assert len(mirror.ranges) == 1


def test_missing_metalink_is_named(mirror, target):
    mirror.metalink_faults = [status(404)]
    assert "RELEASE.metalink: HTTP status 404" in refuse(target, mirror.url)
    assert mirror.ranges == []


def test_metalink_without_end_is_refused(mirror, target, monkeypatch):
    monkeypatch.setattr(mirrors, "METALINK_LIMIT_BYTES", 100)
    assert "RELEASE.metalink: larger than 100 bytes" in refuse(target, mirror.url)


def test_stalled_server_times_out_and_is_resumed(mirror, target, monkeypatch):
    monkeypatch.setattr(http, "READ_TIMEOUT_S", 0.2)
    mirror.faults = [stall]
    started = time.monotonic()
    fetch(target, mirror.url)
    assert time.monotonic() - started < STALL_S / 2
    start = int(mirror.ranges[1].removeprefix("bytes=").removesuffix("-"))
    assert HALF - http.BLOCK_BYTES < start <= HALF


def test_server_that_is_not_there_gives_one_line(target, monkeypatch):
    monkeypatch.setattr(http, "BACKOFF_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as silent:  # bound, but it does not listen
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/pub/uniref50"
        message = refuse(target, url)
    assert f"{url}: RELEASE.metalink: [Errno 111] Connection refused, given up after 6 tries" in message
    assert list(target.parent.iterdir()) == []


# Mirrors in turn


@pytest.mark.parametrize("fault", [status(404), corrupt, unannounced(7)], ids=["missing", "corrupt", "broken"])
def test_second_mirror_serves_where_the_first_does_not(server, target, fault):
    first, second = server(), server()
    first.faults = [fault] * 100
    assert fetch(target, first.url, second.url)["url"] == f"{second.url}/{NAME}"


def test_second_mirror_goes_on_where_the_first_broke(server, target):
    first, second = server(), server()
    second.etag, second.modified = '"other"', "Thu, 19 Jun 2025 12:00:00 GMT"
    first.faults = [drop()] * 100
    fetch(target, first.url, second.url)
    assert second.ranges == [f"bytes={HALF}-"]
    assert second.sent == len(DATA) - HALF


def test_validators_of_the_first_mirror_are_not_asked_of_the_second(server, target):
    first, second = server(), server()
    second.etag = second.modified = None
    first.faults, second.faults = [drop()] * 100, [drop(HALF + 100_003)]
    fetch(target, first.url, second.url)
    assert second.ranges == [f"bytes={HALF}-", f"bytes={HALF + 100_003}-"]
    assert second.sent == len(DATA) - HALF


def test_second_mirror_starts_from_zero_where_the_first_gave_rubbish_and_broke(server, target):
    first, second = server(), server()
    first.faults = [lambda handler, data: drop()(handler, bytes(len(data)))] + [status(500)] * 100
    fetch(target, first.url, second.url)
    assert second.ranges == [f"bytes={HALF}-", None]


def test_second_mirror_with_another_release_starts_from_zero(server, target):
    first, second = server(), server()
    first.data = bytes(len(DATA))
    first.metalink = metalink(first.data)
    first.faults = [drop()] * 100
    fetch(target, first.url, second.url)
    assert second.ranges == [None]


def test_a_mirror_with_a_password_is_refused_without_saying_it(target):
    message = refuse(target, "https://someone:secret@127.0.0.1/uniref50")
    assert "source.mirrors has a user's name or password" in message
    assert "secret" not in message


def test_all_mirrors_are_named_with_their_faults(server, target, tmp_path):
    first, second = server(), server()
    first.faults, second.faults = [status(404)], [corrupt]
    message = refuse(target, first.url, second.url, f"file://{tmp_path}/nowhere")
    assert f"{first.url}: {NAME}: HTTP status 404" in message
    assert f"{second.url}: {NAME}: expected" in message
    assert f"file://{tmp_path}/nowhere: {tmp_path}/nowhere/RELEASE.metalink: No such file or directory" in message


# Runs in turn


def test_killed_download_is_resumed_by_the_next_run(mirror, target):
    mirror.faults = [stall]
    code = "import sys; from pathlib import Path; from embedome.sources import http, release as d\n"
    code += "http.BLOCK_BYTES = 1 << 16\n"
    code += "d.download_release([sys.argv[1]], 'uniref50', Path(sys.argv[2]), Path(sys.argv[3]))"
    command = [sys.executable, "-c", code, mirror.url, str(target), str(target.parent / "release.json")]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(SCRIPTS)})
    try:
        deadline = time.monotonic() + 20
        while len(left(target) or b"") < HALF - 2 * (1 << 16) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert not target.exists()
    kept = len(left(target))
    assert 0 < kept <= HALF
    fetch(target, mirror.url)
    assert mirror.ranges == [None, f"bytes={kept}-"]


def leave(target: Path, data: bytes, **note: object) -> None:
    """Leave a partial file and its note, as a killed run does."""
    target.parent.mkdir(parents=True)
    target.with_name(f".{NAME}.part").write_bytes(data)
    if note:
        target.with_name(f".{NAME}.part.json").write_text(json.dumps(note))


def note_of(mirror: ThreadingHTTPServer) -> dict:
    """The note of a download that `mirror` began."""
    facts = {"url": f"{mirror.url}/{NAME}", "bytes": len(DATA), "md5": hashlib.md5(DATA).hexdigest()}
    return facts | {"ETag": mirror.etag, "Last-Modified": mirror.modified}


def test_partial_file_of_an_earlier_run_is_resumed(mirror, target):
    leave(target, DATA[:HALF], **note_of(mirror))
    fetch(target, mirror.url)
    assert mirror.ranges == [f"bytes={HALF}-"]
    assert mirror.sent == len(DATA) - HALF


def test_complete_partial_file_is_verified_without_a_download(mirror, target):
    leave(target, DATA, **note_of(mirror))
    fetch(target, mirror.url)
    assert mirror.ranges == []


@pytest.mark.parametrize("size", [HALF, len(DATA), len(DATA) + 1])
def test_damaged_partial_file_is_fetched_from_zero(mirror, target, size):
    leave(target, bytes(size), **note_of(mirror))
    fetch(target, mirror.url)
    assert mirror.ranges[-1] is None


@pytest.mark.parametrize("other", [None, {"md5": "0" * 32}, {"bytes": 7}, {"ETag": '"zero"'}])
def test_partial_file_of_something_else_is_not_resumed(mirror, target, other):
    leave(target, bytes(HALF), **({} if other is None else note_of(mirror) | other))
    fetch(target, mirror.url)
    assert mirror.sent == len(DATA)


def test_two_downloads_to_one_file_do_not_meet(mirror, target):
    with release.partial_download(target):
        message = refuse(target, mirror.url)
    assert "another process is downloading it" in message
    fetch(target, mirror.url)


def test_old_file_is_replaced_whole_and_stands_until_then(mirror, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    mirror.faults = [status(404)]
    with pytest.raises(UserError):
        release.download_release([mirror.url], "uniref50", target, target.parent / "release.json")
    assert target.read_bytes() == b"old"
    fetch(target, mirror.url)


def test_old_record_never_stands_beside_a_new_file(mirror, target, monkeypatch):
    record = target.parent / "release.json"
    target.parent.mkdir()
    record.write_text("old")
    monkeypatch.setattr(release.PartialDownload, "publish", lambda part: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        release.download_release([mirror.url], "uniref50", target, record)
    assert not record.exists()


def test_full_disk_is_told_and_the_part_is_kept(mirror, target):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, hard))
    try:
        with pytest.raises(OSError) as caught:
            release.download_release([mirror.url], "uniref50", target, target.parent / "release.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert left(target) == DATA[:HALF]
    fetch(target, mirror.url)
    assert mirror.ranges == [None, f"bytes={HALF}-"]


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A release in a folder whose name needs quoting in a URL."""
    folder = tmp_path / "my release"
    folder.mkdir()
    (folder / NAME).write_bytes(DATA)
    (folder / "RELEASE.metalink").write_text(metalink())
    return folder


def test_folder_gives_the_same_record_wherever_it_lies(folder, target, tmp_path):
    first = fetch(target, folder.as_uri())
    moved = folder.rename(tmp_path / "elsewhere")
    other = tmp_path / "other" / NAME
    assert fetch(other, moved.as_uri() + "/") == first
    assert (other.parent / "release.json").read_bytes() == (target.parent / "release.json").read_bytes()
    assert first["url"] == NAME
    assert str(tmp_path) not in json.dumps(first)


def test_date_of_the_metalink_is_recorded(folder, target):
    dated = metalink().replace('version="3.0"', 'version="3.0" pubdate="Wed, 18 Jun 2025 12:00:00 GMT"')
    (folder / "RELEASE.metalink").write_text(dated)
    assert fetch(target, folder.as_uri())["date"] == "Wed, 18 Jun 2025 12:00:00 GMT"


@pytest.mark.parametrize(
    "data",
    [flipped(DATA), DATA[:-1], DATA + b"\n", DATA * 3, b""],
    ids=["flipped", "shorter", "longer", "much longer", "empty"],
)
def test_wrong_file_in_a_folder_is_refused(folder, target, data):
    (folder / NAME).write_bytes(data)
    message = refuse(target, folder.as_uri())
    assert f"{NAME}: expected {len(DATA)} bytes with md5 {hashlib.md5(DATA).hexdigest()}" in message
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("missing", [NAME, "RELEASE.metalink"])
def test_missing_file_in_a_folder_is_named(folder, target, missing):
    (folder / missing).unlink()
    assert f"{folder / missing}: No such file or directory" in refuse(target, folder.as_uri())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "RELEASE.metalink: not valid XML (no element found"),
        ("<html><p>Sign in<br></html>", "RELEASE.metalink: not valid XML (mismatched tag"),
        ('<?xml version="1.0" encoding="klingon"?><metalink/>', "RELEASE.metalink: not valid XML"),
        (METALINK[: len(METALINK) // 2], "RELEASE.metalink: not valid XML"),
        (metalink(name="uniref90.fasta.gz"), f"RELEASE.metalink: no entry for {NAME}"),
        (metalink().replace("www.metalinker.org", "else.where"), f"RELEASE.metalink: no entry for {NAME}"),
        (metalink(size="many"), f"RELEASE.metalink: size for {NAME} is 'many'"),
        (metalink(md5=""), f"RELEASE.metalink: md5 for {NAME} is ''"),
        (metalink().replace('type="md5"', 'type="sha1"'), f"RELEASE.metalink: md5 for {NAME} is ''"),
        (metalink().replace("2025_03", ""), f"RELEASE.metalink: version for {NAME} is ''"),
    ],
)
def test_metalink_that_does_not_serve_is_refused(folder, target, text, complaint):
    (folder / "RELEASE.metalink").write_text(text)
    assert f"{folder.as_uri()}: {complaint}" in refuse(target, folder.as_uri())


def test_folder_after_a_broken_server(mirror, folder, target):
    mirror.faults = [drop()] * 100
    assert fetch(target, mirror.url, folder.as_uri())["url"] == NAME


@pytest.mark.parametrize("url", ["", "/data/uniref", "ftp://127.0.0.1/pub", "file://host/data", "file:data", "http://"])
def test_mirror_that_is_no_url_of_a_folder_is_refused(target, folder, url):
    assert "expected file:///absolute/folder or http(s)://host/folder" in refuse(target, folder.as_uri(), url)


def test_no_mirror_is_an_error(target):
    assert "none is configured" in refuse(target)
