"""`embedome completion`: each shell that is installed completes by its script."""

import shutil
import subprocess
from pathlib import Path

import pytest
from embedome.cli.completion import SHELLS
from embedome.cli.main import main
from embedome.evaluation.tasks import TASKS
from embedome.models.registry import REGISTRY

BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMP_LINE="$*"
COMP_POINT=${#COMP_LINE}
_shtab_embedome embedome "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = 'source $argv[1]; complete --do-complete "$argv[2]"'


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell, and files to be completed."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        with pytest.MonkeyPatch.context() as patch, open(folder / shell, "w") as out:
            patch.setattr("sys.stdout", out)
            main(["completion", shell])
    (folder / "proteins.fasta").touch()
    (folder / "models").mkdir()
    return folder


def run(folder: Path, *command: str) -> list[str]:
    """Run a shell in a folder; give the lines that it prints."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    assert result.stderr == ""
    return result.stdout.splitlines()


def join_words(value: list[str] | set[str]) -> str:
    return " ".join(sorted(value) if isinstance(value, set) else value)


EXPECTED = [
    (["pre"], {"pretrain"}),
    (["models", "f"], {"fetch", "fill"}),
    (["embed", "--po"], {"--pooling"}),
    (["embed", "--pooling", "m"], {"mean", "max"}),
    (["embed", "prot"], {"proteins.fasta"}),
    (["embed", "x.fasta", "-m", "mo"], {"models"}),
    (["describe", "prot"], {"proteins.fasta"}),
    (["models", "fetch", "esm1n"], {name for name in REGISTRY if name.startswith("esm1n")}),
    (["plan", "-m", "esm1n"], {name for name in REGISTRY if name.startswith("esm1n")}),
    (["pretrain", "x.fasta", "--recipe", "esm1nv-"], {"esm1nv-1024", "esm1nv-legacy"}),
    (["evaluate", "--task", "s"], {name for name in TASKS if name.startswith("s")}),
    (["export", "x.parquet", "x", "--format", "h"], {"hdf5", "h5ad"}),
    (["completion", "z"], {"zsh"}),
]


@pytest.mark.parametrize(("words", "expected"), EXPECTED, ids=join_words)
def test_bash_completes(scripts: Path, words: list[str], expected: set[str]) -> None:
    found = run(scripts, "bash", "-c", BASH, "bash", "./bash", "embedome", *words)
    assert {each.rstrip("/ ") for each in found} == expected


@pytest.mark.parametrize(("words", "expected"), EXPECTED, ids=join_words)
def test_fish_completes(scripts: Path, words: list[str], expected: set[str]) -> None:
    found = run(scripts, "fish", "--no-config", "-c", FISH, "./fish", " ".join(["embedome", *words]))
    # After a tab stands the help; fish completes parts within a name too.
    names = {each.split("\t")[0].rstrip("/") for each in found}
    assert {name for name in names if name.startswith(words[-1])} == expected


def test_zsh_reads_the_script(scripts: Path) -> None:
    text = (scripts / "zsh").read_text()
    assert text.startswith("#compdef embedome\n")
    assert "esm1nv-1024" in text
    assert run(scripts, "zsh", "-n", "zsh") == []
