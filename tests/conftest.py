"""What several test files need: a finished run of the demo, web servers, a small disk, processes."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from embedome.sources import http
from helpers.filtered import THREE_PROTEINS, write_fasta
from helpers.mirror_server import serving
from hypothesis import settings

# Machines are slow at times; how long an example takes says nothing of its truth.
settings.register_profile("patient", deadline=None)
# Of make fuzz: 10,000 whole files, and as many for each of the tests of their parts.
settings.register_profile("thorough", deadline=None, max_examples=10_000)
settings.load_profile("patient")


@pytest.fixture
def three_proteins(tmp_path: Path) -> Path:
    """A FASTA file with three records, two of one sequence."""
    return write_fasta(tmp_path / "three.fasta", THREE_PROTEINS)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the small demo: a copy, which a module may change."""
    from helpers.workflow_runs import small_demo

    mine = tmp_path_factory.mktemp("demo") / "run"
    base = tmp_path_factory.getbasetemp()
    # With pytest-xdist each process has a folder of its own in that of all.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return shutil.copytree(small_demo(shared / "small" / "demo"), mine, symlinks=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"no small file system can be mounted: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], ThreadingHTTPServer]]:
    """Start servers on 127.0.0.1; no waits worth the name."""
    monkeypatch.setattr(http, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(http, "BACKOFF_S", 0.001)
    monkeypatch.setattr(http, "READ_TIMEOUT_S", 5.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ExitStack() as stack:
        yield lambda: stack.enter_context(serving())


@pytest.fixture
def mirror(server: Callable[[], ThreadingHTTPServer]) -> ThreadingHTTPServer:
    return server()


@pytest.fixture(scope="module")
def processes() -> object:
    """Starts functions in processes of their own, see `small_run.Processes`."""
    from helpers.small_run import Processes

    return Processes()
