"""What may stand in the way of an output, and what a folder holds."""

import os
import socket
import stat
from pathlib import Path

import pytest


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("precious")


def make_link(path: Path) -> None:
    target = path.with_name("target.txt")
    target.write_text("precious")
    path.symlink_to(target)


def make_folder_link(path: Path) -> None:
    make_folder(path.with_name("target"))
    path.symlink_to(path.with_name("target"))


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def make_socket(path: Path) -> None:
    # Its path may have 107 bytes.
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def make_device(path: Path) -> None:
    """A device like /dev/null, in the test's own folder."""
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except (PermissionError, OSError) as error:
        pytest.skip(f"no device can be made here: {error}")


OBSTACLES = {
    "folder": make_folder,
    "link": make_link,
    "link to a folder": make_folder_link,
    "dangling link": make_dangling_link,
    "pipe": os.mkfifo,
    "socket": make_socket,
    "device": make_device,
}


def snapshot(folder: Path) -> dict[str, object]:
    """All that is below a folder, links not followed."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        about = os.lstat(path)
        content = path.read_bytes() if stat.S_ISREG(about.st_mode) else os.readlink(path) if path.is_symlink() else None
        found[str(path.relative_to(folder))] = (about.st_ino, about.st_mode, about.st_rdev, content)
    return found
