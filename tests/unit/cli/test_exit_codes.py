"""How commands end: a pipe that is closed, Ctrl-C, SIGTERM, places that cannot be written."""

import argparse
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest
from embedome.cli.answer import Answer
from embedome.cli.main import main, make_parser
from embedome.common.errors import UserError
from helpers.filtered import write_fasta
from helpers.paths import SCRIPTS
from helpers.processes import wait_for
from helpers.small_run import random_records, rough_model


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "embedome", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SCRIPTS)}


def embedome(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, timeout=300)


# Of file names, in bytes, on all file systems in use.
LONGEST_NAME = 255


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model directory."""
    return rough_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def embedded(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a run."""
    folder = tmp_path_factory.mktemp("embedded")
    fasta = write_fasta(folder / "in.fasta", random_records(1, [30] * 200))
    result = embedome("embed", fasta, "-m", model, "-o", folder / "out.parquet", "--workers", 1)
    assert result.returncode == 0, result.stderr
    return folder / "out.parquet"


@pytest.fixture
def read_only(tmp_path: Path):
    """A folder in which nothing can be written, for root either."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        if os.geteuid() == 0:
            pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
        folder.chmod(0o555)
    yield folder
    if not mounted.returncode:
        subprocess.run(["umount", "--lazy", folder], check=True)


# Of --help argparse itself says nothing, and ends well.
@pytest.mark.parametrize(("arguments", "codes"), [(["--help"], {0, 141}), (["models", "list"], {141})])
def test_a_reader_that_has_enough_is_no_error(arguments, codes):
    """As in `embedome … | head -1`."""
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.wait(100) in codes
    assert process.stderr.read() == ""


@pytest.mark.slow
def test_vectors_to_a_reader_that_has_enough(embedded):
    ids = [line[1:] for line in (embedded.parent / "in.fasta").read_text().splitlines() if line[:1] == ">"]
    line = f"{sys.executable} -m embedome get {embedded} {' '.join(ids)} | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", line], env=environment(), capture_output=True, text=True, check=True)
    first, code = result.stdout.splitlines()
    assert first.split("\t")[0] == ids[0]
    assert code == "141"
    assert result.stderr == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.slow
def test_signals_end_a_run_with_their_codes_and_it_goes_on(model, tmp_path, number, code, workers):
    fasta, out = write_fasta(tmp_path / "in.fasta", random_records(2, [60] * 4000)), tmp_path / "out.parquet"
    arguments = command("embed", fasta, "-m", model, "-o", out, "--device", "cpu", "--workers", workers)
    process = subprocess.Popen(arguments, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: (tmp_path / "out.parquet.work" / "catalog").exists())
    # A terminal's Ctrl-C reaches the workers too.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    assert process.wait(100) == code
    said = process.stderr.read()
    assert "Traceback" not in said
    assert ("interrupted; finished work is kept" in said) == (number == signal.SIGINT)
    assert not out.exists()


def refused(*arguments: object, what: str, path: object) -> None:
    """The command ends with code 2 and one line that names the path."""
    result = embedome(*arguments)
    assert result.returncode == 2, result.stderr
    [line] = [line for line in result.stderr.splitlines() if " INFO " not in line and "untrained" not in line]
    assert what in line
    assert f" {path}: " in line
    assert ".tmp" not in line


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_one_line(model, embedded, read_only):
    fasta = embedded.parent / "in.fasta"
    out = read_only / "out.npy"
    for arguments in (
        ("embed", fasta, "-m", model, "-o", out),
        ("export", embedded, out, "--format", "npy"),
        ("export", embedded, out, "--format", "hdf5"),
        ("models", "init", "esm1nv", out, "--layers", 1, "--hidden", 16, "--heads", 2),
    ):
        result = embedome(*arguments)
        assert result.returncode == 2, (arguments, result.returncode, result.stderr)
        assert "Read-only file system" in result.stderr or "Permission denied" in result.stderr
        assert "Traceback" not in result.stderr
        # Python's words, not those of HDF5.
        assert "nable to" not in result.stderr
        # The vectors are made beside the file, before they are exported.
        assert str(out.with_suffix("")) in result.stderr.splitlines()[-1]


def test_names_that_are_too_long_are_one_line(model, embedded, tmp_path):
    fasta, name = embedded.parent / "in.fasta", "x" * (LONGEST_NAME + 1)
    refused("embed", fasta, "-m", model, "-o", tmp_path / name, what="File name too long", path=tmp_path / name)
    refused(
        "embed", tmp_path / name, "-m", model, "-o", tmp_path / "o", what="File name too long", path=tmp_path / name
    )
    # That of the temporary file is longer than its own.
    near = tmp_path / ("x" * (LONGEST_NAME - 10))
    refused("export", embedded, near, "--format", "hdf5", what="File name too long", path=near)


@pytest.mark.slow
def test_standard_input_a_pipe_and_a_folder_are_embedded(model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    records = random_records(3, [30] * 6)
    for number in range(3):
        write_fasta(folder / f"{number}.fasta", records[2 * number : 2 * number + 2])
    whole = tmp_path / "whole.parquet"
    assert embedome("embed", folder, "-m", model, "-o", whole, "--workers", 1).returncode == 0
    line = f"cat {folder}/[01].fasta | embedome embed - <(xz -c {folder}/2.fasta) -m {model} -o {tmp_path}/o.parquet"
    line = line.replace("embedome", f"{sys.executable} -m embedome") + " --workers 1"
    result = subprocess.run(["bash", "-c", line], env=environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "o.parquet", "whole.parquet"]
    one, other = (duckdb.sql(f"select id, embedding from '{tmp_path}/{n}.parquet'").fetchall() for n in ("o", "whole"))
    assert one == other
    assert len(one) == 6


@pytest.mark.slow
def test_strict_refuses_dna(model, tmp_path):
    fasta = write_fasta(tmp_path / "dna.fasta", [("gene", "ACGT" * 20)])
    result = embedome("embed", fasta, "-m", model, "-o", tmp_path / "out.parquet", "--strict")
    assert result.returncode == 2
    assert "1 records look like DNA or RNA, the first is record 1" in result.stderr.splitlines()[-1]


def leaves(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Names of all commands, such as ``models score``."""
    below = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    for name, inner in [item for each in below for item in each.choices.items()]:
        deeper = [f"{name} {each}" for each in leaves(inner)]
        yield from deeper or [name]


# Enough of each command's arguments to be parsed; what it does is replaced.
ARGUMENTS = {
    "annotate": "d -l l -o o",
    "average": "d -o o --last 1",
    "bench": "-m m",
    "clean": "d",
    "completion": "bash",
    "describe": "d",
    "embed": "f -m m -o o",
    "evaluate": "--task own --data f -o o",
    "export": "d o",
    "finetune": "m --task own --data f -o o",
    "get": "d P1",
    "models export": "d f",
    "models fetch": "n",
    "models fill": "s -m m",
    "models import": "s d",
    "models init": "n d",
    "models list": "",
    "models merge-adapter": "b a d",
    "models score": "f -m m -o o",
    "plan": "-m m",
    "pretrain": "f -o o",
    "translate": "f -m m -o o",
    "verify": "d",
    "workflow": "d",
}
ENDS = (
    (UserError("x: is wrong; correct it"), 2),
    (OSError(errno.ENOSPC, "No space left on device", "x"), 2),
    (KeyboardInterrupt(), 130),
    (BrokenPipeError(), 141),
    (SystemExit(143), 143),
    (None, 0),
)


def test_every_command_is_among_them() -> None:
    assert sorted(leaves(make_parser())) == sorted(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_command_ends_with_the_documented_codes(name, monkeypatch, capfd):
    monkeypatch.setattr("embedome.cli.main.exit_on_sigterm", lambda: None)
    monkeypatch.setattr("embedome.cli.main.exit_on_interrupt", lambda: None)
    parser, arguments = make_parser(), [*name.split(), *ARGUMENTS[name].split()]
    options = parser.parse_args(arguments)
    for error, code in ENDS:

        def run(_: argparse.Namespace, error: BaseException | None = error) -> Answer:
            if error:
                raise error
            return Answer({}, [])

        options.run = run
        monkeypatch.setattr("embedome.cli.main.make_parser", lambda: SimpleNamespace(parse_args=lambda _: options))
        assert ended(arguments) == code
        assert "Traceback" not in capfd.readouterr().err


def ended(arguments: list[str]) -> int:
    """The code with which the command line ends within this process, whose standard output stays."""
    out = os.dup(1)
    try:
        main(arguments)
    except SystemExit as end:
        return end.code
    finally:
        os.dup2(out, 1)
        os.close(out)
    return 0


@pytest.mark.slow
def test_empty_files_are_passed_over_where_asked_for(model, tmp_path):
    fasta, empty = write_fasta(tmp_path / "in.fasta", random_records(3, [30] * 2)), tmp_path / "empty.fasta"
    empty.touch()
    arguments = ("embed", empty, fasta, "-m", model, "-o", tmp_path / "out.parquet", "--workers", 1)
    refused = embedome(*arguments)
    assert (refused.returncode, refused.stderr.splitlines()[-1].partition(" ERROR ")[2]) == (
        2,
        f"{empty}: the file is empty; expected FASTA records",
    )
    passed = embedome(*arguments, "--skip-empty")
    assert passed.returncode == 0, passed.stderr
    assert f"{empty}: holds no record, and is passed over" in passed.stderr
    assert duckdb.sql(f"select count(*) from '{tmp_path}/out.parquet'").fetchall() == [(2,)]
