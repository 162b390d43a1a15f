"""What several test files need: small FASTA files, the filter stage run on them, web servers, and processes that are
killed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import duckdb
import embedome
import pytest
from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records
from embedome.sources import http
from hypothesis import settings
from mirror_server import serving

# Machines are slow at times; how long an example takes says nothing of its truth.
settings.register_profile("patient", deadline=None)
# Of make fuzz: 10,000 whole files, and as many for each of the tests of their parts.
settings.register_profile("thorough", deadline=None, max_examples=10_000)
settings.load_profile("patient")

SCRIPTS = Path(embedome.__file__).parents[1]
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

# Insulin, ubiquitin and a repeat of ubiquitin under another id.
THREE_PROTEINS = [
    ("sp|P01308|INS_HUMAN Insulin OS=Homo sapiens OX=9606 GN=INS PE=1 SV=1", "MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEAL"),
    (
        "UniRef50_P0CG48 Ubiquitin n=7 Tax=Homo sapiens TaxID=9606 RepID=UBC_HUMAN",
        "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEG",
    ),
    (
        "UniRef50_P0CG47 Ubiquitin n=3 Tax=Mus musculus TaxID=10090 RepID=UBB_MOUSE",
        "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEG",
    ),
]


def write_fasta(path: Path, records: Iterable[tuple[str, str]], width: int = 60) -> Path:
    """Write (header, sequence) records."""
    lines = []
    for header, sequence in records:
        lines += [f">{header}", *(sequence[start : start + width] for start in range(0, len(sequence), width))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def three_proteins(tmp_path: Path) -> Path:
    """A FASTA file with three records, two of one sequence."""
    return write_fasta(tmp_path / "three.fasta", THREE_PROTEINS)


class Filtered(NamedTuple):
    """What the filter stage wrote."""

    catalog: Path
    rejects: Path
    summary: Path
    members: Path
    account: dict

    def rows(self, columns: str = "*") -> list[tuple]:
        """The catalog's rows in file order, as DuckDB reads them."""
        return duckdb.sql(f"SELECT {columns} FROM read_parquet('{self.catalog}/*.parquet')").fetchall()

    def rejected(self, columns: str = "*") -> list[tuple]:
        """The rejected rows, as DuckDB reads them."""
        return duckdb.sql(f"SELECT {columns} FROM read_parquet('{self.rejects}')").fetchall()

    def member_rows(self, columns: str = "*") -> list[tuple]:
        """The members' rows in file order, as DuckDB reads them."""
        return duckdb.sql(f"SELECT {columns} FROM read_parquet('{self.members}')").fetchall()


def run_filter(folder: Path, *fasta: Path, workers: int = 1, **limits: int) -> Filtered:
    """Run the filter stage with its outputs in a folder."""
    paths = {"catalog": folder / "catalog", "rejects": folder / "rejects.parquet", "summary": folder / "filter.json"}
    paths["members"] = folder / "members.parquet"
    return Filtered(**paths, account=filter_records(fasta, Criteria(**limits), **paths, workers=workers))


def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make catalogs of 64 rows a file and 16 a row group, so that few records make many of both."""
    for target, value in (
        ("catalog.filter.CATALOG_GROUP_ROWS", 16),
        ("catalog.filter.CATALOG_FILE_GROUPS", 4),
        ("splits.split_table.CATALOG_GROUP_ROWS", 16),
        ("splits.split_table.GROUP_ROWS", 128),
    ):
        monkeypatch.setattr(f"embedome.{target}", value)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def python_command(code: str, *arguments: object) -> list[str]:
    """The command line for `code`, which finds embedome and has `sys`."""
    return [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(SCRIPTS)!r})\n{code}", *map(str, arguments)]


def start_python(code: str, *arguments: object) -> subprocess.Popen:
    """Start a Python process on `code`; returns when it has printed ``ready``."""
    # A pipe of its own, as one that waits to be killed reads it.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(python_command(code, *arguments), **pipes, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def run_python(code: str, *arguments: object) -> float:
    """Run `code` to its end; gives the seconds from ``ready`` on."""
    with start_python(code, *arguments) as process:
        start = time.monotonic()
        assert process.wait(60) == 0
        return time.monotonic() - start


def output_of(code: str, *arguments: object) -> str:
    """What `code` prints, run in a process of its own."""
    return subprocess.run(python_command(code, *arguments), capture_output=True, text=True, check=True).stdout


def kill_at_random(
    code: str, arguments: Sequence[object], duration_s: float, times: int = 5, after: Callable[[], None] | None = None
) -> None:
    """Start `code` again and again, and kill it at some moment of its work; `after` looks at what each leaves."""
    chance = random.Random(9)
    killed = 0
    for turn in range(times):
        with start_python(code, *arguments) as process:
            # One moment out of each fifth of the time.
            time.sleep(duration_s * (turn + chance.random()) / times * 0.9)
            process.kill()
            killed += process.wait(60) == -signal.SIGKILL
        if after:
            after()
    assert killed >= times // 2, "the process was done before it was killed"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the small demo: a copy, which a module may change."""
    from runs import small_demo

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
