"""The commands and programs of README and docs/ run as written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.workflow_runs import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def execute(folder: Path, *arguments: str, text: str | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def programs() -> list:
    found = []
    for path in DOCUMENTS:
        blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        found += [pytest.param(block, id=f"{path.name}-{number}") for number, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize("program", programs())
def test_python_programs_run(demo, program):
    assert execute(demo, "-", text=program).strip()


def test_the_command_lines_of_the_readme_run(demo, tmp_path):
    lines = re.findall(r"^    embedome (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["embed", "describe", "get"]
    (tmp_path / "proteins.fasta").write_text(">P1 a protein\nMKTAYIAKQR\n>P2\nMKTAYIAKQL\n")
    ids = iter(["P1", "P2"])
    for line in lines:
        line = line.replace("MODEL_DIR", str(demo / "resources/models/esm1nv-demo"))
        line = re.sub(r"\bID\b", lambda _: next(ids), line)
        assert execute(tmp_path, "-m", "embedome", *line.split())


def test_the_command_lines_of_reading_run(demo):
    lines = re.findall(r"^    embedome (.+)$", (ROOT / "docs" / "reading.md").read_text(), re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["export", "export", "export"]
    for line in lines:
        assert execute(demo, "-m", "embedome", *line.split()).endswith(" proteins\n")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
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


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_that_are_named_are_there(path):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z]+)", path.read_text(), re.MULTILINE)) <= targets
