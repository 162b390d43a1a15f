"""The image of Containerfile, built and run by buildah on a base that is made of Debian's packages."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers.filtered import THREE_PROTEINS, write_fasta
from helpers.paths import ROOT
from helpers.workflow_runs import SMALL, digests

PACKAGES = "python3,python3-venv,ca-certificates"
# As slim images do.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")
LARGEST = 2e9
OF_TESTS = ["pytest", "hypothesis", "mypy", "ruff", "snakefmt", "codespell", "peft", "pip"]
MODEL = ("--layers", "1", "--hidden", "16", "--heads", "2", "--feed-forward", "16", "--positions", "64")


class Store:
    """Images and containers of these tests alone, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.options = ["--storage-driver", "vfs", "--root", str(folder / "store"), "--runroot", str(folder / "run")]

    def __call__(self, *command: str | Path) -> str:
        """Run buildah; give its output."""
        return run("buildah", *self.options, *command)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program; give its output."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run([str(each) for each in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with the image `embedome`."""
    missing = [program for program in ("buildah", "mmdebstrap") if not shutil.which(program)]
    if missing or os.getuid() != 0:
        pytest.skip("needs root" if os.getuid() else f"{' and '.join(missing)}: not installed")
    folder = tmp_path_factory.mktemp("image")
    exclude = [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT]
    debian = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", *exclude, "bookworm"]
    made = subprocess.run([*debian, str(folder / "base.tar")], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no base can be made of Debian's packages: {made.stderr.strip()[-300:]}")
    run("make", "-C", ROOT, "wheels", f"WHEELS={folder}/context/build/wheels")
    store = Store(folder)
    empty = store("from", "scratch").strip()
    store("add", "--quiet", empty, folder / "base.tar", "/")
    store("commit", "--quiet", "--rm", empty, "localhost/base")
    build = ["build", "--quiet", "--isolation", "chroot", "--network", "host", "--file", ROOT / "Containerfile"]
    store(*build, "--build-arg", "BASE=localhost/base", "--tag", "embedome", folder / "context")
    yield store
    shutil.rmtree(folder)


@pytest.fixture
def inside(store: Store, tmp_path: Path) -> Iterator[list[str | Path]]:
    """The beginning of a command that runs in a container, where this test's folder is the working folder."""
    container = store("from", "embedome").strip()
    tmp_path.chmod(0o777)
    yield ["run", "--isolation", "chroot", "--volume", f"{tmp_path}:/work", container, "--"]
    store("rm", container)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_image_is_small_and_has_no_packages_of_tests(store, inside):
    settings = "{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}"
    assert store("inspect", "--type", "image", "--format", settings, "embedome").split() == ["embedome", "[embedome]"]
    mounted = Path(store("mount", inside[-2]).strip())
    files = [path for path in mounted.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) <= LARGEST
    program = f"import importlib.util as u; print([each for each in {OF_TESTS} if u.find_spec(each)])"
    assert store(*inside, "python", "-c", program).strip() == "[]"
    assert store(*inside, "id", "--user").strip() != "0"


def test_the_command_gives_the_same_bytes_inside(store, inside, tmp_path):
    write_fasta(tmp_path / "proteins.fasta", THREE_PROTEINS)
    embed = ["embed", "proteins.fasta", "-m", "model", "-o"]
    store(*inside, "embedome", "models", "init", "esm1nv", "model", *MODEL)
    store(*inside, "embedome", *embed, "inside.parquet")
    run(sys.executable, "-m", "embedome", *embed, "outside.parquet", cwd=tmp_path)
    assert sha256(tmp_path / "inside.parquet") == sha256(tmp_path / "outside.parquet")


def test_the_workflow_gives_the_same_bytes_inside(store, inside, demo, tmp_path):
    store(*inside, "embedome", "workflow", "inside")
    (tmp_path / "inside" / "small.yaml").write_text(yaml.safe_dump(SMALL))
    snakemake = ["snakemake", "--directory", "inside", "--snakefile", "inside/Snakefile", "--cores", "2"]
    store(*inside, *snakemake, "--configfile", "inside/small.yaml")
    assert digests(tmp_path / "inside") == digests(demo)
