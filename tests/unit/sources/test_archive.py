"""Old releases out of an archive, from a server on this machine that misbehaves on demand, and from folders."""

import gzip
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest
from embedome.common.errors import UserError
from embedome.sources import http, release
from helpers.archives import ARCHIVE, RELEASE, release_archive, tar, uniref
from helpers.mirror_server import STALL_S, corrupt, drop, flipped, ignore_range, metalink, stall, status
from helpers.paths import SCRIPTS
from hypothesis import given, settings
from hypothesis import strategies as st

NAME = "uniref50.xml.gz"
# What is wanted lies after most of the archive, so that connections break before and in it.
WANTED = random.Random(1).randbytes(300_001)


WHOLE = release_archive(
    uniref("uniref100", random.Random(2).randbytes(300_001)),
    uniref("uniref90", random.Random(3).randbytes(200_001)),
    uniref("uniref50", WANTED),
)
PLAIN = tar((NAME, WANTED))
HALF = 400_001
LATE = len(WHOLE) - 100_001  # in the file that is wanted


@pytest.fixture
def archives(server):
    """Start servers of the archive."""

    def start():
        one = server()
        one.data, one.name, one.metalink = WHOLE, ARCHIVE, metalink(WHOLE, name=ARCHIVE)
        one.folder = f"/pub/previous_releases/release-{RELEASE}/uniref/"
        one.root = one.url.removesuffix("/uniref50")
        return one

    return start


@pytest.fixture
def mirror(archives):
    return archives()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "resources" / NAME


def load(target: Path, *mirrors: str, database: str = "uniref50", file_format: str = "xml") -> None:
    record = target.parent / "release.json"
    release.download_release(mirrors, database, target, record, file_format=file_format, release=RELEASE)


def fetch(target: Path, *mirrors: str) -> dict:
    """Take the file out of the archive, check that it is whole and alone with its record, return the record."""
    load(target, *mirrors)
    assert target.read_bytes() == WANTED
    assert sorted(path.name for path in target.parent.iterdir()) == ["release.json", NAME]
    return json.loads((target.parent / "release.json").read_text())


def refuse(target: Path, *mirrors: str, **options: str) -> str:
    """Fail, leaving nothing; return the one line."""
    with pytest.raises(UserError) as caught:
        load(target, *mirrors, **options)
    assert list(target.parent.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def digests(data: bytes) -> dict:
    return {
        "bytes": len(data),
        "md5": hashlib.md5(data).hexdigest(),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


# A server


@pytest.mark.parametrize("tail", ["", "/", "/uniref/uniref50", "/uniref/uniref50/", "/current_release/uniref/uniref50"])
def test_good_server_gives_the_file_and_its_record(mirror, target, tail):
    assert fetch(target, mirror.root + tail) == {
        "url": f"{mirror.root}/previous_releases/release-{RELEASE}/uniref/{ARCHIVE}",
        "database": "uniref50",
        "release": RELEASE,
        "date": None,
        **digests(WANTED),
        "member": f"uniref50.tar/{NAME}",
        "archive": {"file": ARCHIVE, **digests(WHOLE)},
    }
    assert mirror.ranges == [None]


def test_archive_that_moved_to_the_major_releases_is_found(mirror, target, caplog):
    mirror.folder = mirror.folder.replace("previous_releases", "previous_major_releases")
    assert "/previous_major_releases/" in fetch(target, mirror.root)["url"]
    assert "HTTP status 404" in caplog.text


def test_dropped_connections_are_resumed_without_a_byte_sent_twice(mirror, target):
    mirror.faults = [drop(HALF), drop(HALF + 100_003), drop(LATE)]
    fetch(target, mirror.root)
    assert mirror.ranges == [None, f"bytes={HALF}-", f"bytes={HALF + 100_003}-", f"bytes={LATE}-"]
    assert mirror.sent == len(WHOLE)


def test_stalled_server_times_out_and_is_resumed(mirror, target, monkeypatch):
    monkeypatch.setattr(http, "READ_TIMEOUT_S", 0.2)
    mirror.faults = [stall]
    started = time.monotonic()
    fetch(target, mirror.root)
    assert time.monotonic() - started < STALL_S / 2
    assert re.fullmatch("bytes=[0-9]+-", mirror.ranges[1])


@pytest.mark.parametrize("code", [429, 503])
def test_busy_server_is_given_the_time_it_asks_for(mirror, target, monkeypatch, code):
    waits = []
    monkeypatch.setattr(http.time, "sleep", waits.append)
    mirror.faults = [drop(HALF), status(code, **{"Retry-After": "3"})]
    fetch(target, mirror.root)
    assert waits == [0.001, 3.0]
    assert mirror.ranges == [None, f"bytes={HALF}-", f"bytes={HALF}-"]


def test_never_ending_drops_are_given_up_and_the_next_mirror_serves(archives, target):
    first, second = archives(), archives()
    first.faults = [drop(HALF)] * 100
    fetch(target, first.root, second.root)
    assert len(first.ranges) == http.RETRIES + 1
    assert second.ranges == [None]


@pytest.mark.parametrize("validators", [True, False])
def test_server_that_ignores_ranges_starts_from_zero_once(mirror, target, validators):
    if not validators:
        mirror.etag = mirror.modified = None
    mirror.faults = [drop(LATE), ignore_range]
    fetch(target, mirror.root)
    assert mirror.ranges == [None, f"bytes={LATE}-", None]
    mirror.faults = [drop(LATE), ignore_range, drop(HALF), ignore_range]
    target.unlink()
    (target.parent / "release.json").unlink()
    assert f"could not go on at byte {HALF}" in refuse(target, mirror.root)


def test_file_that_changes_between_connections_is_fetched_from_zero(mirror, target):
    def change(handler, data):
        drop(HALF)(handler, flipped(data))
        mirror.etag = '"two"'

    mirror.faults = [change]
    fetch(target, mirror.root)
    assert mirror.ranges == [None, f"bytes={HALF}-", None]


@pytest.mark.parametrize("at", [HALF, LATE])
def test_pieces_that_do_not_fit_are_fetched_once_more_from_zero(mirror, target, at):
    mirror.etag = mirror.modified = None
    mirror.faults = [lambda handler, data: drop(at)(handler, data[: at - 9] + bytes(9) + data[at:])]
    fetch(target, mirror.root)
    assert mirror.ranges == [None, f"bytes={at}-", None]


def test_archive_of_the_wrong_size_is_refused_before_it_is_downloaded(mirror, target):
    mirror.data = WHOLE[:HALF]
    assert f"{ARCHIVE}: expected {len(WHOLE)} bytes (RELEASE.metalink), got {HALF} bytes" in refuse(target, mirror.root)


def test_endless_answer_is_cut_off(mirror, target):
    mirror.faults = [lambda handler, data: handler.send(200, {}, data * 10)]
    assert f"{ARCHIVE}: longer than {len(WHOLE)} bytes" in refuse(target, mirror.root)


@pytest.mark.parametrize("place", [20, HALF, LATE, len(WHOLE) - 4])
def test_archive_with_one_wrong_bit_is_never_published(mirror, target, place):
    wrong = WHOLE[:place] + bytes([WHOLE[place] ^ 1]) + WHOLE[place + 1 :]
    mirror.data = wrong
    message = refuse(target, mirror.root)
    assert f"{ARCHIVE}: damaged before byte" in message or f"got {len(WHOLE)} bytes with md5" in message
    assert mirror.ranges == [None]


def test_all_mirrors_and_places_are_named_with_their_faults(archives, target, tmp_path):
    first = archives()
    first.faults = [corrupt]
    message = refuse(target, first.root, f"file://{tmp_path}/nowhere")
    assert f"{first.root}/previous_releases/release-{RELEASE}/uniref: {ARCHIVE}: " in message
    assert (
        f"{first.root}/previous_major_releases/release-{RELEASE}/uniref: RELEASE.metalink: HTTP status 404" in message
    )
    assert f"file://{tmp_path}/nowhere/previous_releases/release-{RELEASE}/uniref: {tmp_path}/nowhere" in message


def test_killed_download_starts_again_and_gives_the_same(mirror, target):
    mirror.faults = [lambda handler, data: (drop(LATE)(handler, data), mirror.over.wait(STALL_S))]
    code = "import sys; from embedome.sources import release as d; from pathlib import Path\n"
    code += "d.download_release([sys.argv[1]], 'uniref50', Path(sys.argv[2]), Path(sys.argv[3]),"
    code += f" file_format='xml', release='{RELEASE}')"
    command = [sys.executable, "-c", code, mirror.root, str(target), str(target.parent / "release.json")]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(SCRIPTS)})
    part = target.with_name(f".{NAME}.part")
    try:
        deadline = time.monotonic() + 20
        while not mirror.sent and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert not target.exists()
    assert part.exists()
    fetch(target, mirror.root)
    assert mirror.ranges == [None, None]


def test_progress_says_rate_and_time_left(mirror, target, monkeypatch, caplog):
    monkeypatch.setattr("embedome.common.log.LINE_EVERY_S", 0.0)
    with caplog.at_level("INFO"):
        fetch(target, mirror.root)
    assert re.search(rf"download {re.escape(ARCHIVE)}: [\d,]+ bytes, [\d,]+/s, \d+ %, [\d,]+ s left", caplog.text)


# Folders, and what archives may hold


@pytest.fixture
def folder(tmp_path: Path):
    """Put an archive where a mirror has it; return the mirror."""

    def put(data: bytes = WHOLE) -> str:
        place = tmp_path / "my mirror" / "previous_releases" / f"release-{RELEASE}" / "uniref"
        place.mkdir(parents=True)
        (place / ARCHIVE).write_bytes(data)
        (place / "RELEASE.metalink").write_text(metalink(data, name=ARCHIVE))
        return (tmp_path / "my mirror").as_uri()

    return put


def test_folder_gives_a_record_without_its_place(folder, target, tmp_path):
    record = fetch(target, folder())
    assert record["url"] == ARCHIVE
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize(
    ("data", "member"),
    [
        (WHOLE, f"uniref50.tar/{NAME}"),
        (tar(uniref("uniref50", WANTED)), f"uniref50.tar/{NAME}"),  # a plain tar file, whatever its name
        (release_archive((NAME, WANTED)), NAME),
        (release_archive((f"./uniref50/{NAME}", WANTED)), NAME),
        (release_archive((f"../../{NAME}", WANTED)), NAME),
        (release_archive((f"/etc/{NAME}", WANTED)), NAME),
        (release_archive((f"{'x' * 300}/{NAME}", WANTED)), NAME),
        (release_archive((f"{'x' * 300}/{NAME}", WANTED), form=tarfile.PAX_FORMAT), NAME),
        (release_archive((NAME, None), (NAME, WANTED)), NAME),  # links are passed over
        (release_archive(("uniref50.tar.gz", uniref("uniref50", WANTED, "w:gz")[1])), f"uniref50.tar.gz/{NAME}"),
        (release_archive(uniref("uniref50", WANTED), (NAME, b"another")), f"uniref50.tar/{NAME}"),  # the first counts
        (gzip.compress(PLAIN[:99_999], mtime=0) + gzip.compress(PLAIN[99_999:], mtime=0), NAME),
    ],
)
def test_file_is_found_where_archives_have_it(folder, target, data, member):
    before = set(target.parent.parent.iterdir())
    assert fetch(target, folder(data))["member"] == member
    assert {path.name for path in set(target.parent.parent.iterdir()) - before} == {"resources", "my mirror"}


def test_archive_without_the_file_is_read_once_although_it_was_resumed(archives, target):
    first, second = archives(), archives()
    first.faults = [drop(HALF)]
    message = refuse(target, first.root, second.root, file_format="fasta")
    assert "holds no uniref50.fasta.gz" in message
    assert (first.sent, second.sent) == (len(WHOLE), 0)


@pytest.mark.parametrize(
    ("data", "holds"),
    [
        (release_archive(uniref("uniref90", b"x")), "uniref90.tar"),
        (release_archive(("uniref50.tar", tar(("uniref50.fasta.gz", b"x")))), "uniref50.tar/uniref50.fasta.gz"),
        (release_archive(("uniref50.xml.gz.old", b"x"), (f"deep/{NAME}/x", b"x")), "uniref50.xml.gz.old, x"),
        (release_archive(("odd\nname\x1b", b"")), r"odd\nname\x1b"),
        (release_archive(("uniref50.tar", tar(("uniref50.tar", tar((NAME, b"x")))))), "uniref50.tar/uniref50.tar"),
        (release_archive(*[(f"f{i}", b"") for i in range(99)]), ", ".join(f"f{i}" for i in range(12)) + ";"),
        (release_archive(), "no file"),
    ],
)
def test_file_that_is_not_there_is_told_with_what_is(folder, target, data, holds):
    message = refuse(target, folder(data))
    assert f"{ARCHIVE}: holds no {NAME}, but {holds}" in message
    assert "source.format" in message


@pytest.mark.parametrize(
    "data",
    [
        WHOLE[:LATE],
        gzip.compress(tar(uniref("uniref50", WANTED))[:200_000], mtime=0),
        release_archive(("uniref50.tar", b"no tar file")),
        b"no archive at all" * 99,
        b"",
    ],
    ids=["cut", "cut inside", "no inner tar", "no tar", "empty"],
)
def test_archive_that_is_none_is_refused_although_its_md5_is_right(folder, target, data):
    assert f"{ARCHIVE}: damaged before byte" in refuse(target, folder(data))


def test_a_name_of_megabytes_is_damage(folder, target):
    data = release_archive(("x" * (2 << 20), b""), uniref("uniref50", WANTED))
    assert "(a header of 2,097,153 bytes)" in refuse(target, folder(data))


def test_memory_does_not_grow_with_the_archive(folder, target):
    mirror = folder(release_archive(("big", bytes(200 << 20)), uniref("uniref50", WANTED)))
    tracemalloc.start()
    fetch(target, mirror)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@settings(max_examples=30)
@given(data=st.data())
def test_whatever_breaks_the_file_is_right_or_absent(tmp_path_factory, data):
    wrong = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(0, 2))):
        wrong[data.draw(st.integers(0, len(wrong) - 1))] ^= data.draw(st.integers(1, 255))
    wrong = bytes(wrong[: data.draw(st.sampled_from([len(wrong), HALF, 1000]))])
    root = tmp_path_factory.mktemp("root")
    place = root / "previous_releases" / f"release-{RELEASE}" / "uniref"
    place.mkdir(parents=True)
    (place / ARCHIVE).write_bytes(wrong)
    (place / "RELEASE.metalink").write_text(metalink(WHOLE, name=ARCHIVE))
    target = root / "out" / NAME
    if wrong == WHOLE:
        fetch(target, root.as_uri())
    else:
        refuse(target, root.as_uri())
