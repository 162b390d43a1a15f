"""Lock files: held by one process, until it ends however it ends, and by nobody where there are no locks."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from embedome.common import locks
from embedome.common.locks import hold_lock, try_lock
from helpers.processes import start_python

HOLD = """
from pathlib import Path
from embedome.common.locks import try_lock
with try_lock(Path(sys.argv[1])) as is_held:
    print("ready" if is_held else "refused", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_once_and_let_go(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "lock"
    with try_lock(path) as first, try_lock(path) as second:
        assert (first, second) == (True, False)
    with try_lock(path) as again:
        assert again
        # Of a folder that was moved away: whoever comes next makes a new one.
        (tmp_path / "new").rename(tmp_path / "moved")
        with try_lock(path) as other:
            assert other


def test_a_lock_is_that_of_another_process_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with start_python(HOLD, path) as holder:
        with try_lock(path) as meanwhile:
            assert not meanwhile
        holder.kill()
        holder.wait(60)
    assert path.exists()
    with try_lock(path) as is_held:
        assert is_held


def test_whoever_waits_for_a_lock_gets_it_when_its_holder_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, looks = tmp_path / "lock", []
    with start_python(HOLD, path) as holder:

        def sleep(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                holder.kill()
                holder.wait(60)

        monkeypatch.setattr(locks, "time", SimpleNamespace(sleep=sleep))
        with hold_lock(path), try_lock(path) as other:
            assert not other
    assert len(looks) == 3
    with pytest.raises(KeyError), hold_lock(path):
        raise KeyError
    with try_lock(path) as is_held:
        assert is_held


def test_what_is_in_a_lock_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_bytes(b"whose it is")
    with try_lock(path) as first, try_lock(path) as second:
        assert (first, second) == (True, False)
    assert path.read_bytes() == b"whose it is"


def test_who_opened_a_lock_file_that_its_holder_then_removed_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flock = tmp_path / "lock", fcntl.flock

    def remove_first(descriptor: int, operation: int) -> None:
        path.unlink(missing_ok=True)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with try_lock(path) as is_held:
        assert not is_held


def refuse(number: int) -> Callable[[int, int], None]:
    def flock(_: int, __: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_the_file_system_knows_no_locks_nobody_else_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(number))
    path = tmp_path / "lock"
    path.write_bytes(b"whose it is")
    with try_lock(path) as is_held:
        assert is_held
    assert path.read_bytes() == b"whose it is"


def test_another_fault_of_a_lock_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), try_lock(tmp_path / "lock"):
        pass
