"""The workflow's files, laid into a folder to run in."""

import subprocess
from pathlib import Path

import pytest
from embedome.common.errors import UserError
from embedome.workflow import run_folder
from embedome.workflow.run_folder import lay_workflow, list_workflow
from helpers.paths import ROOT

FOLDERS = (
    "Snakefile",
    "workflow",
    "config.yaml",
    "rules",
    "schemas",
    "presets",
    "profiles",
    "slurm",
    "envs",
    "docs/report",
)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_files_are_those_that_git_knows():
    command = ["git", "ls-files", *FOLDERS, ":(glob)scripts/*.py"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(tracked) > 70
    assert list_workflow(ROOT) == tracked


def test_a_folder_gets_them_beside_what_is_there(tmp_path):
    (tmp_path / "mine.fasta").write_text(">a\nMK\n")
    paths = lay_workflow(tmp_path)
    assert files_below(tmp_path) == {"mine.fasta": b">a\nMK\n", **{path: (ROOT / path).read_bytes() for path in paths}}


@pytest.mark.parametrize("name", ["config.yaml", "rules/embed.smk"])
def test_a_file_of_the_user_s_stays_and_nothing_is_written(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine\n")
    with pytest.raises(UserError, match=f"{name}: is there already, and differs; name another folder, or move it"):
        lay_workflow(tmp_path)
    assert files_below(tmp_path) == {name: b"mine\n"}


def test_a_link_stays(tmp_path):
    (tmp_path / "Snakefile").symlink_to(ROOT / "Snakefile")
    with pytest.raises(UserError, match="Snakefile is a link"):
        lay_workflow(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["Snakefile"]


def test_a_folder_that_was_half_written_is_completed(tmp_path):
    lay_workflow(tmp_path)
    whole = files_below(tmp_path)
    (tmp_path / "rules/embed.smk").unlink()
    lay_workflow(tmp_path)
    assert files_below(tmp_path) == whole


def test_of_a_wheel_they_are_in_the_package(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "embedome"
    lay_workflow(package / "workflow_files")
    (package / "workflow_files" / "scripts" / "__pycache__").mkdir()
    (package / "workflow_files" / "scripts" / "__pycache__" / "embed.cpython-311.pyc").touch()
    monkeypatch.setattr(run_folder, "PACKAGE", package)
    assert lay_workflow(tmp_path / "run") == list_workflow(ROOT)
    assert sorted(files_below(tmp_path / "run")) == list_workflow(ROOT)


def test_a_library_without_them_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "PACKAGE", tmp_path / "lib" / "embedome")
    with pytest.raises(UserError, match="comes without the workflow; install embedome from its wheel, or clone"):
        lay_workflow(tmp_path / "run")


def test_nothing_is_written_into_a_data_set(tmp_path):
    (tmp_path / "_manifest.json").write_text('{"provenance": {}}')
    with pytest.raises(UserError, match="lies in the data set"):
        lay_workflow(tmp_path)
