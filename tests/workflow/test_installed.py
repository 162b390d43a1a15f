"""embedome installed from a wheel, with nothing but what it asks for, away from the checkout."""

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from helpers.filtered import THREE_PROTEINS, write_fasta
from helpers.fresh_environments import asked_for, make_environment
from helpers.paths import ROOT
from helpers.workflow_runs import SMALL, digests

WORKFLOW = "embedome/workflow_files/"
# What the command alone is to do without.
OF_THE_WORKFLOW = {"snakemake", "dask", "distributed", "matplotlib", "pandas", "jsonschema"}


def tracked(*paths: str) -> list[str]:
    return subprocess.run(
        ["git", "ls-files", *paths], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def build(kind: str, source: Path, out: Path) -> Path:
    """Build an sdist or a wheel of a folder, as pip does."""
    out.mkdir(exist_ok=True)
    program = f"import sys, setuptools.build_meta as build; build.build_{kind}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, str(out)], cwd=source, check=True, capture_output=True)
    [path] = out.iterdir()
    return path


def run(folder: Path, *command: str | Path) -> str:
    """Run a program in a folder, which finds no other copy of the library; give its output."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        [str(each) for each in command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source distribution of the files that git knows, as they are here."""
    source = tmp_path_factory.mktemp("checkout")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    return build("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel that is built from the source distribution."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    [source] = unpacked.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_a_wheel_of_the_source_distribution_has_the_library_and_the_workflow_s_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    library = {name: f"scripts/{name}" for name in files if not name.startswith(WORKFLOW)}
    workflow = {name: name.removeprefix(WORKFLOW) for name in files if name.startswith(WORKFLOW)}
    assert sorted(library.values()) == tracked("scripts/embedome")
    folders = (
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
    assert sorted(workflow.values()) == tracked(*folders, ":(glob)scripts/*.py")
    assert all(content == (ROOT / {**library, **workflow}[name]).read_bytes() for name, content in files.items())


@pytest.mark.slow
def test_the_command_needs_nothing_of_the_workflow(wheel, tmp_path):
    assert not asked_for(wheel) & OF_THE_WORKFLOW
    programs = make_environment(tmp_path / "environment", wheel)
    there = f"import importlib.util as u; print([name for name in {sorted(OF_THE_WORKFLOW)} if u.find_spec(name)])"
    assert run(tmp_path, programs / "python", "-c", there) == "[]\n"
    write_fasta(tmp_path / "proteins.fasta", THREE_PROTEINS)
    small = ("--layers", "1", "--hidden", "16", "--heads", "2", "--feed-forward", "16", "--positions", "64")
    run(tmp_path, programs / "embedome", "models", "init", "esm1nv", "model", *small)
    installed, here = (tmp_path / name for name in ("installed.parquet", "here.parquet"))
    embed = ("embed", "proteins.fasta", "-m", "model", "-o")
    run(tmp_path, programs / "embedome", *embed, installed)
    checkout = f"import sys; sys.path.insert(0, {str(ROOT / 'scripts')!r}); from embedome.cli.main import main; main()"
    run(tmp_path, sys.executable, "-c", checkout, *embed, here)
    assert hashlib.sha256(installed.read_bytes()).digest() == hashlib.sha256(here.read_bytes()).digest()
    said = run(tmp_path, programs / "embedome", "workflow", "run")
    assert "pip install 'embedome[workflow]'" in said


@pytest.mark.slow
def test_the_workflow_runs_from_a_folder_that_the_command_laid_with_the_same_bytes(wheel, demo, tmp_path):
    programs = make_environment(tmp_path / "environment", wheel, ["workflow"])
    said = run(tmp_path, programs / "embedome", "workflow", "a folder/run")
    assert "pip install" not in said
    assert "cd 'a folder/run'" in said
    folder = tmp_path / "a folder" / "run"
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    run(folder, programs / "python", "-m", "snakemake", "--cores", "2", "--configfile", "small.yaml")
    assert (folder / "results/dataset/esm1nv-demo/_manifest.json").is_file()
    assert digests(folder) == digests(demo)
    run(
        folder,
        programs / "python",
        "-m",
        "snakemake",
        "--cores",
        "1",
        "--configfile",
        "small.yaml",
        "--report",
        "it.html",
    )
    assert (folder / "it.html").stat().st_size > 100_000
    # Jobs imported the installed library through a folder in which it is alone.
    assert [path.name for path in (folder / ".snakemake" / "embedome").iterdir()] == ["embedome"]
