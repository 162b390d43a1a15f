"""README and docs/: which there are, their commands, and following one block by block."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from helpers.paths import ROOT, SCRIPTS

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
# Of a checkout, what Snakemake needs.
CHECKOUT = (
    "Snakefile",
    "workflow",
    "config.yaml",
    "rules",
    "schemas",
    "scripts",
    "docs",
    "envs",
    "presets",
    "profiles",
    "slurm",
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# As a user's shell has it, but of this checkout.
EMBEDOME = 'set -e\nembedome() { python -m embedome "$@"; }\n'


def name_of(path: Path) -> str:
    """Return a document's path in the checkout."""
    return path.relative_to(ROOT).as_posix()


def copy_checkout(folder: Path) -> Path:
    """Copy of this checkout what Snakemake needs into a new folder, and return that."""
    folder.mkdir(parents=True)
    for name in CHECKOUT:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    return folder


def blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    """Return language and text of the fenced blocks in these languages, in order."""
    return [(language, block) for language, block in BLOCK.findall(text) if language in languages]


def shell_lines(block: str) -> list[str]:
    """Return the command lines of a block in sh, continued lines joined, remarks and here-documents left out."""
    block = re.sub(r"<<'(\w+)'(.*)\n(?:.*\n)*?\1\n", r"\2\n", block).replace("\\\n", " ")
    lines = (re.sub(r"(^|\s+)# .*", "", line).strip() for line in block.splitlines())
    return [line for line in lines if line]


def run(folder: Path, command: list[str], text: str) -> str:
    """Run a program on a text in a folder, with this checkout's package; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    result = subprocess.run(
        command, cwd=folder, env=environment, input=text, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, f"{text}\n{result.stdout}{result.stderr}"
    return result.stdout


def follow(folder: Path, text: str, instead: Mapping[str, str]) -> None:
    """Do what a document says, one block after the other; a block `text` must be what the block before it printed.

    Parameters
    ----------
    folder
        where blocks of sh and Python run
    text
        the document, or a part of it
    instead
        what runs in place of lines of sh that begin so; nothing where it is empty
    """
    printed = ""
    for language, block in blocks(text, "sh", "python", "text"):
        if language == "text":
            assert printed == block
        elif language == "python":
            printed = run(folder, [sys.executable, "-"], block)
        else:
            for beginning, other in instead.items():
                block = re.sub(
                    rf"^{re.escape(beginning)}.*\n", f"{other}\n" if other else "", block, flags=re.MULTILINE
                )
            printed = run(folder, ["bash", "-c", EMBEDOME + block], "")
