"""The commands and programs of README and docs/ run as written, from a checkout after `make run`."""

import gzip
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from embedome.cli.main import make_parser
from helpers.documents import DOCUMENTS, TUTORIALS, blocks, copy_checkout, name_of, shell_lines
from helpers.paths import ROOT

PROTEINS = ">P1 a protein\nMKTAYIAKQR\n>P2\nMKTAYIAKQL\n"
# Followed block by block by test_antibodies.py, where its weights can be fetched, and by test_tutorials.py.
FOLLOWED = [ROOT / "docs" / "antibodies.md", *TUTORIALS]
# The first words of commands that these tests run.
COMMANDS = ("embedome", "printf", "source", "snakemake")
# Commands that are parsed and not run, and why.
PARSED = {"embedome models fetch": "downloads gigabytes from the Hugging Face Hub"}


def shell(folder: Path, line: str, text: str | None = None) -> str:
    """Run a command line as a user types it who has the environment of `make setup`; give what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    result = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
    return result.stdout


def programs() -> list:
    found = []
    for path in DOCUMENTS:
        if path in FOLLOWED:
            continue
        found += [
            pytest.param(block, id=f"{path.name}-{number}")
            for number, (_, block) in enumerate(blocks(path.read_text(), "python"))
        ]
    return found


def command_lines(path: Path) -> list[str]:
    """The indented lines of a document that are commands, without the remark at their end."""
    lines = re.findall(r"^    (\w.*)$", path.read_text(), re.MULTILINE)
    return [re.sub(r"\s+# .*", "", line) for line in lines if line.split()[0] in COMMANDS]


def gaf_line(name: str, number: int) -> str:
    """A line of a GAF file on the accession in an id."""
    fields = ["UniProtKB", name.split("_")[1], "G", "enables", f"GO:{number % 2}", "PMID:1", "IDA"]
    return "\t".join([*fields, *[""] * 10]) + "\n"


@pytest.fixture(scope="module")
def checkout(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout after `make run`, in which lie the files that the documents take for the user's."""
    folder = copy_checkout(tmp_path_factory.mktemp("a checkout") / "embedome")
    for name in ("results", "resources"):
        shutil.copytree(demo / name, folder / name, symlinks=True)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    (folder / "proteins.fasta").write_text(PROTEINS)
    (folder / "targets.fasta").write_text(PROTEINS)
    (folder / "sequences.fasta.gz").write_bytes(gzip.compress(PROTEINS.encode()))
    (folder / "my.yaml").write_text("split: {seed: 1}\n")
    ids = shell(folder, "zcat results/shards/train/*.fasta.gz | grep '>' | head -9 | cut -c2- | cut -d' ' -f1").split()
    (folder / "go.tsv").write_text("id\tlabel\n" + "".join(f"{name}\tGO:{k % 2}\n" for k, name in enumerate(ids)))
    (folder / "goa.gaf").write_text("".join(gaf_line(name, k) for k, name in enumerate(ids)))
    (folder / "go.obo").write_text("[Term]\nid: GO:0\n\n[Term]\nid: GO:1\nis_a: GO:0\n")
    shell(folder, "embedome models export resources/models/esm1nv-demo esm1nv.nemo")
    small = "--layers 1 --hidden 16 --heads 2 --feed-forward 16"
    shell(folder, f"embedome models init prott5nv models/prott5nv {small} --positions 32 --decoder-layers 1")
    shell(folder, f"embedome models init esm2-650m models/esm2-650m {small}")
    shell(folder, "embedome embed proteins.fasta -m models/esm2-650m -o vectors.parquet")
    return folder


def parse(line: str) -> None:
    """Parse a command of embedome as the command line does, and do nothing."""
    make_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize("program", programs())
@pytest.mark.slow
def test_python_programs_run(checkout, program):
    assert shell(checkout, "python -", text=program).strip()


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_the_commands_of_a_document_run_one_after_the_other(checkout, path, tmp_path):
    folder = shutil.copytree(checkout, tmp_path / "embedome", symlinks=True)
    activated = ""
    if path.name in ("performance.md", "cluster.md"):
        shell(folder, "embedome models import esm1nv.nemo models/esm1nv")
    for line in command_lines(path):
        if line.startswith(tuple(PARSED)):
            parse(line)
        elif line.startswith("source"):
            activated = f"{line} && "
        elif line.startswith("snakemake"):
            # The plan of a run: what is in these presets takes days.
            if "esm1nv.yaml" in line and not (folder / "models/esm1nv").exists():
                shell(folder, "embedome models import esm1nv.nemo models/esm1nv")
            shell(folder, f"{activated}{line} --dry-run")
        else:
            shell(folder, activated + line)


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path not in FOLLOWED], ids=name_of)
def test_blocks_that_are_not_run_are_parsed(path):
    for _, block in blocks(path.read_text(), "sh"):
        for line in shell_lines(block):
            assert line.startswith("embedome "), f"{line}: not a command that can be parsed"
            parse(line)


def test_commands_are_found():
    found = {path.name: len(command_lines(path)) for path in DOCUMENTS if command_lines(path)}
    assert found == {
        "README.md": 6,
        "annotation.md": 3,
        "choosing-a-model.md": 1,
        "cluster.md": 2,
        "commands.md": 6,
        "evaluation.md": 3,
        "fine-tuning.md": 6,
        "install.md": 2,
        "models.md": 6,
        "performance.md": 2,
        "pretraining.md": 11,
        "reading.md": 4,
        "translation.md": 3,
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings], target


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_make_targets_that_are_named_are_there(path):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z]+)", path.read_text(), re.MULTILINE)) <= targets
