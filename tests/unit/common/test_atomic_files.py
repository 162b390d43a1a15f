"""Files that are there whole or not at all: under exceptions, kills, two writers, and full disks."""

import errno
import json
import logging
import os
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from embedome.common import atomic_files
from embedome.common.atomic_files import (
    atomic_directory,
    atomic_path,
    hold_folder,
    remove_directory,
    replace_directory,
)
from embedome.common.errors import UserError, user_errors
from embedome.common.json_files import file_sha256, json_sha256, read_json, write_json
from embedome.embedding.cost import CostModel
from embedome.embedding.shard import write_shards
from embedome.splits.split import split_catalog
from embedome.splits.split_methods import SplitSettings
from helpers.filtered import run_filter, tree, write_fasta
from helpers.processes import start_python
from hypothesis import given
from hypothesis import strategies as st


def anything(path: Path) -> None:
    """Let any folder be replaced."""


def test_a_file_is_published_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert tree(tmp_path) == {"new/folder/file": b"new"}
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"newer")
        assert path.read_bytes() == b"new"
    assert tree(tmp_path) == {"new/folder/file": b"newer"}


def test_a_folder_is_published_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for content in (b"new", b"newer"):
        with atomic_directory(path, anything) as temporary:
            (temporary / "below").mkdir()
            (temporary / "below" / content.decode()).write_bytes(content)
            assert not (path / "below" / content.decode()).exists()
        assert tree(tmp_path) == {f"folder/below/{content.decode()}": content}
        assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def fail_half_way(folder: Path, error: type[BaseException]) -> None:
    with atomic_path(folder / "file") as temporary:
        temporary.write_bytes(b"half")
        raise error


def fail_half_way_in_a_folder(folder: Path, error: type[BaseException]) -> None:
    with atomic_directory(folder / "folder", anything) as temporary:
        (temporary / "part").write_bytes(b"half")
        raise error


@pytest.mark.parametrize("before", [{}, {"file": b"old", "folder/part": b"old"}], ids=["nothing", "old"])
@pytest.mark.parametrize("fail", [fail_half_way, fail_half_way_in_a_folder])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_what_was_there(tmp_path: Path, before: dict, fail: Callable, error: type) -> None:
    for name, content in before.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error):
        fail(tmp_path, error)
    assert tree(tmp_path) == before
    assert {entry.name for entry in tmp_path.iterdir()} == {name.split("/")[0] for name in before}


def test_a_block_that_writes_nothing_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file"):
        pass


def test_everything_is_flushed_before_it_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a power cut leaves files that have their final name and no content."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def log_fsync(descriptor: int) -> None:
        events.append(f"flush {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def log_replace(source: Path, target: Path) -> None:
        replace(source, target)
        events.append(f"rename to {Path(target).name}")

    monkeypatch.setattr(atomic_files.os, "fsync", log_fsync)
    monkeypatch.setattr(atomic_files.os, "replace", log_replace)
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_bytes(b"x")
    assert events[:3] == [f"flush {temporary.name}", "rename to file", f"flush {tmp_path.name}"]
    events.clear()
    with atomic_directory(tmp_path / "folder", anything) as temporary:
        (temporary / "below").mkdir()
        (temporary / "below" / "part").write_bytes(b"x")
    published = events.index("rename to folder")
    assert {"flush part", "flush below", f"flush {temporary.name}"} <= set(events[:published])
    assert events[published + 1] == f"flush {tmp_path.name}"


# Killed in the middle.

HALF_A_FILE = """
from pathlib import Path
from embedome.common.atomic_files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""
HALF_A_FOLDER = """
from embedome.common.atomic_files import atomic_directory
with atomic_directory(sys.argv[1], lambda path: None) as temporary:
    (temporary / "part").write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["out", "odd [name]*?"])
@pytest.mark.parametrize("code", [HALF_A_FILE, HALF_A_FOLDER], ids=["file", "folder"])
def test_killed_writers_leave_no_target_and_are_swept_away(tmp_path: Path, code: str, name: str) -> None:
    (tmp_path / f".{name}.tmp").write_bytes(b"mine")  # not one of ours
    path = tmp_path / name
    with start_python(code, path) as process:
        process.kill()
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 2
    if code == HALF_A_FILE:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"whole")
        assert tree(tmp_path) == {name: b"whole", f".{name}.tmp": b"mine"}
    else:
        with atomic_directory(path, anything) as temporary:
            (temporary / "other").write_bytes(b"whole")
        assert tree(tmp_path) == {f"{name}/other": b"whole", f".{name}.tmp": b"mine"}
    assert {entry.name for entry in tmp_path.iterdir()} == {name, f".{name}.tmp"}


# Two at once.

WRITE_FILES = """
from embedome.common.atomic_files import atomic_path
print("ready", flush=True)
for turn in range(80):
    with atomic_path(sys.argv[1]) as temporary, temporary.open("wb") as stream:
        for _ in range(20):
            stream.write(sys.argv[2].encode() * 5000)
"""
WRITE_FOLDERS = """
from embedome.common.atomic_files import atomic_directory
print("ready", flush=True)
done = 0
for turn in range(40):
    try:
        with atomic_directory(sys.argv[1], lambda path: None) as temporary:
            for number in range(10):
                (temporary / str(number)).write_text(sys.argv[2])
        done += 1
    except FileNotFoundError:
        pass  # the other one was first, and swept this folder away
print(done)
"""


def test_two_writers_of_a_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    seen = set()
    with start_python(WRITE_FILES, path, "a") as one, start_python(WRITE_FILES, path, "b") as other:
        while one.poll() is None or other.poll() is None:
            if path.exists():
                seen.add(path.read_bytes())
            time.sleep(0.001)
    assert (one.returncode, other.returncode) == (0, 0)
    assert seen == {b"a" * 100_000, b"b" * 100_000}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_two_writers_of_a_folder_give_one_or_the_other(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with start_python(WRITE_FOLDERS, path, "a") as one, start_python(WRITE_FOLDERS, path, "b") as other:
        done = [int(process.communicate(timeout=60)[0]) for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0)
    assert sum(done) > 0
    content = tree(path)
    assert content in [{str(number): letter for number in range(10)} for letter in (b"a", b"b")]
    with atomic_directory(path, anything) as temporary:
        (temporary / "last").touch()
    assert tree(tmp_path) == {"folder/last": b""}
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_file_that_was_written_meanwhile_is_as_good(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_path(path) as slow:
        slow.write_bytes(b"slow")
        with atomic_path(path) as fast:
            fast.write_bytes(b"fast")
    assert tree(tmp_path) == {"file": b"fast"}


def fill_slowly(path: Path, *, to_the_end: bool) -> None:
    with atomic_directory(path, anything) as slow:
        (slow / "1").write_bytes(b"slow")
        with atomic_directory(path, anything) as fast:
            (fast / "1").write_bytes(b"fast")
        if to_the_end:
            (slow / "2").write_bytes(b"slow")


@pytest.mark.parametrize("to_the_end", [True, False])
def test_a_folder_that_was_swept_away_fails_its_writer(tmp_path: Path, to_the_end: bool) -> None:
    with pytest.raises(FileNotFoundError):
        fill_slowly(tmp_path / "folder", to_the_end=to_the_end)
    assert tree(tmp_path) == {"folder/1": b"fast"}


def test_a_folder_is_out_of_reach_before_its_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its writer could go on after some of them were gone, and publish the rest."""
    rmtree = atomic_files.shutil.rmtree
    killed = tmp_path / ".folder.0123456789ab.tmp"
    killed.mkdir()
    (killed / "part").touch()
    seen = []

    def log_rmtree(path: Path, ignore_errors: bool) -> None:
        if path.exists():
            seen.append((killed.exists(), [entry.name for entry in path.iterdir()]))
        rmtree(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(atomic_files.shutil, "rmtree", log_rmtree)
    with atomic_directory(tmp_path / "folder", anything):
        pass
    assert seen == [(False, ["part"])]


def test_two_writers_that_publish_a_folder_at_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"
    replace = os.replace
    rivals = ["first", "second"]

    def replace_late(source: Path, target: Path) -> None:
        if target == path and rivals:
            path.mkdir()
            (path / rivals.pop()).touch()
        replace(source, target)

    monkeypatch.setattr(atomic_files.os, "replace", replace_late)
    with atomic_directory(path, anything) as temporary:
        (temporary / "mine").touch()
    assert rivals == []
    assert tree(tmp_path) == {"folder/mine": b""}


# Full disks.


def proteins(count: int) -> list[tuple[str, str]]:
    chance = random.Random(4)
    return [(f"{n:x}", "".join(chance.choices("ACDEFGHIKLMNPQRSTVWY", k=500))) for n in range(count)]


def ends_in_one_line(error: BaseException, caplog: pytest.LogCaptureFixture, code: int = 2) -> str:
    """What `user_errors` says of an exception; it must end the program with a code and one line."""
    caplog.clear()
    with pytest.raises(SystemExit) as caught, user_errors():
        raise error
    assert caught.value.code == code
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "\n" not in record.getMessage()
    return record.getMessage()


@pytest.mark.parametrize("count", [800, 2500, 6000])  # full while runs are written, or while the catalog is
def test_filter_onto_a_full_disk(
    tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    path = write_fasta(tmp_path / "x.fasta", proteins(count))
    if count == 800:
        (small_disk / "ballast").write_bytes(bytes(200_000))
    before = tree(small_disk)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run_filter(small_disk, path)
    assert caught.value.errno == errno.ENOSPC
    message = ends_in_one_line(caught.value, caplog)
    assert "free some space and run again" in message
    assert f"{small_disk}/" in message
    assert tree(small_disk) == before
    assert not (small_disk / "catalog").exists()


def test_shard_onto_a_full_disk(tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", proteins(6000)))
    inputs = (tmp_path / "splits.parquet", tmp_path / "split.json")
    split_catalog(run.catalog, run.summary, SplitSettings("hash", 0, 2000, 2000), splits=inputs[0], summary=inputs[1])
    shards = {"val": 1, "test": 1, "train": 1}
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_shards(run.catalog, *inputs, shards, CostModel(1e-5, 0.0), folder=small_disk, summary=small_disk / "s")
    assert caught.value.errno == errno.ENOSPC
    assert f"{small_disk}/" in ends_in_one_line(caught.value, caplog)
    assert tree(small_disk) == {}


def test_split_onto_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", proteins(3000)))
    (small_disk / "ballast").write_bytes(bytes(1 << 20))
    paths = {"splits": small_disk / "splits.parquet", "summary": small_disk / "split.json"}
    with pytest.raises(OSError, match="No space left on device") as caught:
        split_catalog(run.catalog, run.summary, SplitSettings("hash", 0, 1, 1), **paths)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename.startswith(f"{small_disk}/")
    assert set(tree(small_disk)) == {"ballast"}


LIMITED = """
import logging, resource
from pathlib import Path
from embedome.common.errors import user_errors
from embedome.catalog.filter import filter_records
from embedome.catalog.criteria import Criteria
logging.basicConfig(format="%(message)s")
fasta, out = map(Path, sys.argv[1:])
print("ready", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with user_errors():
    filter_records([fasta], Criteria(), catalog=out / "catalog", rejects=out / "rejects", summary=out / "summary")
"""


def test_file_size_limit(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = write_fasta(tmp_path / "x.fasta", proteins(1000))
    with start_python(LIMITED, path, tmp_path / "out") as process:
        assert process.wait(60) == 2
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    [line] = capfd.readouterr().err.splitlines()
    assert "free some space and run again" in line
    assert tree(tmp_path / "out") == {}


# What the user reads, and JSON.


def test_user_errors_end_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    assert ends_in_one_line(UserError("x.fasta: the file is empty"), caplog) == "x.fasta: the file is empty"
    for number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR):
        message = ends_in_one_line(OSError(number, os.strerror(number), "out/.x.npy.0123456789ab.tmp"), caplog)
        assert message == f"out/x.npy: {os.strerror(number)}; check the place, or name another one"
    arrow = OSError(errno.EACCES, "Failed to open local file 'out/.x.0123456789ab.tmp'. Detail: [errno 13]")
    assert ends_in_one_line(arrow, caplog).startswith("Failed to open local file 'out/x'. Detail:")
    assert "run again" in ends_in_one_line(KeyboardInterrupt(), caplog, 130)
    message = ends_in_one_line(OSError(errno.EDQUOT, "Disk quota exceeded", "out/x"), caplog)
    assert message.startswith("out/x: Disk quota exceeded;")


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.EIO, "Input/output error"), SystemExit(3)])
def test_defects_keep_their_traceback(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(type(error)) as caught, user_errors():
        raise error
    assert caught.value is error
    assert caplog.records == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('aé\n"\\'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_json_round_trip_and_digest(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("json") / "x.json"
    write_json(path, value)
    assert json.loads(path.read_bytes()) == read_json(path) == value
    if isinstance(value, dict):
        assert json_sha256(value) == json_sha256(dict(reversed(value.items())))
    assert json_sha256(value) != json_sha256([value])


def test_json_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(UserError, match="no such file") as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    for data in (b'{"a": 1', b"\xff\xfe", b""):
        path.write_bytes(data)
        with pytest.raises(UserError, match="not valid JSON") as caught:
            read_json(path)
        assert str(path) in str(caught.value)
    with pytest.raises(ValueError):
        write_json(path, float("nan"))
    assert path.read_bytes() == b""


def test_file_digest(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_stays_where_the_new_one_was_swept_away(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("old")
    with pytest.raises(FileNotFoundError):
        replace_directory(tmp_path / ".data.0123456789ab.tmp", tmp_path / "data")
    assert tree(tmp_path) == {"data/file": b"old"}


def test_nothing_is_swept_away_while_a_folder_is_replaced(tmp_path):
    stale = tmp_path / ".data.0123456789ab.tmp"
    stale.mkdir()
    sweep = Thread(target=remove_directory, args=(stale, tmp_path / "data"))
    with hold_folder(tmp_path):
        sweep.start()
        sweep.join(0.3)
        assert sweep.is_alive()
        assert stale.is_dir()
    sweep.join(30)
    assert tree(tmp_path) == {}


def test_half_a_folder_is_not_published_where_it_was_swept_away_and_made_again(tmp_path):
    def write_slowly():
        with atomic_directory(tmp_path / "data", anything) as slow:
            (slow / "first").touch()
            with atomic_directory(tmp_path / "data", anything) as fast:
                (fast / "file").write_text("whole")
            write_json(slow / "second", {})

    with pytest.raises(FileNotFoundError, match="removed meanwhile"):
        write_slowly()
    assert tree(tmp_path) == {"data/file": b"whole"}
