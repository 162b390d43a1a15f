"""Which copy of the library jobs use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from embedome.workflow import library, run_folder
from embedome.workflow.library import use_in_jobs
from helpers.paths import SCRIPTS


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library that is installed among other packages; gives their folder."""
    package = tmp_path / "site-packages" / "embedome"
    (package / run_folder.IN_PACKAGE).mkdir(parents=True)
    (package / "__init__.py").write_text("NAME = 'the installed one'\n")
    (package.parent / "other.py").touch()
    for module in (library, run_folder):
        monkeypatch.setattr(module, "PACKAGE", package)
    return package.parent


def imported_by_jobs(name: str) -> str:
    """What a process imports that is started now, or the error."""
    command = [sys.executable, "-c", f"import {name}; print({name}.__file__)"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or result.stderr.splitlines()[-1]


def test_jobs_of_a_checkout_import_its_library(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    use_in_jobs(tmp_path)
    assert os.environ["PYTHONPATH"] == f"{SCRIPTS}:/elsewhere"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("times", [1, 2])
def test_jobs_of_an_installed_one_see_it_and_no_other_package_beside_it(tmp_path, monkeypatch, installed, times):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for _ in range(times):
        use_in_jobs(tmp_path / "run")
    assert imported_by_jobs("embedome") == str(tmp_path / "run/.snakemake/embedome/embedome/__init__.py")
    assert imported_by_jobs("other") == "ModuleNotFoundError: No module named 'other'"
    assert [path.name for path in (tmp_path / "run/.snakemake/embedome").iterdir()] == ["embedome"]


def test_a_link_to_another_environment_is_replaced(tmp_path, monkeypatch, installed):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "run/.snakemake/embedome").mkdir(parents=True)
    (tmp_path / "run/.snakemake/embedome/embedome").symlink_to(tmp_path / "gone")
    use_in_jobs(tmp_path / "run")
    assert imported_by_jobs("embedome").endswith("run/.snakemake/embedome/embedome/__init__.py")
