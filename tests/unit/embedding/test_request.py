"""What `embedome embed` is asked for, looked at before torch is imported, which takes seconds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from embedome.models.create import make_untrained
from helpers.paths import SCRIPTS
from helpers.small_run import SIZE


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    make_untrained(folder, "model", "esm1nv", SIZE, 1)
    return folder


def refused(*arguments: object) -> tuple[str, set[str]]:
    """What the command says, and the packages that it and the processes it started have imported."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), "PYTHONPROFILEIMPORTTIME": "1"}
    command = [sys.executable, "-m", "embedome", "embed", *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    imported = {found[1] for line in lines if (found := re.match(r"import time:.*\| +(\S+)$", line))}
    assert "embedome.cli.embed" in imported
    (said,) = (line for line in lines if not line.startswith("import time:"))
    return said, imported


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{tmp}/none.fasta -m {model} -o {tmp}/out.parquet", "none.fasta: no such file"),
        ("{fasta} {tmp}/empty.fasta -m {model} -o {tmp}/out.parquet", "empty.fasta: the file is empty"),
        ("{fasta} -m {model} -o {fasta}", "in.fasta: is a file that is to be read"),
        ("{fasta} -m {model} -o {tmp}/other.parquet", "other.parquet: is there already"),
        ("{fasta} -m {model} -o {tmp}/o.parquet --per-residue", "o.residues.parquet: is there already"),
        ("{fasta} -m {tmp}/none -o {tmp}/out.parquet", "none: no such model directory"),
        ("{fasta} -m {tmp}/odd -o {tmp}/out.parquet", "config.json: hidden_size is 'many'"),
    ],
)
@pytest.mark.slow
def test_a_mistake_is_told_without_torch(
    tmp_path: Path, model: Path, arguments: str, message: str, workers: int
) -> None:
    (tmp_path / "in.fasta").write_text(">a\nMKTAYIAKQR\n")
    (tmp_path / "empty.fasta").touch()
    for name in ("other.parquet", "o.residues.parquet"):
        (tmp_path / name).write_text("somebody else's")
    (tmp_path / "odd").mkdir()
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "odd" / "config.json").write_text(json.dumps({**config, "hidden_size": "many"}))
    for name in ("vocab.txt", "tokenizer.json"):
        (tmp_path / "odd" / name).touch()
    before = sorted(tmp_path.iterdir())
    names = {"tmp": tmp_path, "model": model, "fasta": tmp_path / "in.fasta"}
    said, imported = refused(*(word.format(**names) for word in arguments.split()), "--workers", workers)
    assert message in said
    assert not imported & {"torch", "transformers"}
    assert sorted(tmp_path.iterdir()) == before
