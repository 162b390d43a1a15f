"""benchmarks/gpu.py runs to its end where torch, transformers, numpy, pyarrow and safetensors are alone."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from helpers.paths import ROOT, SCRIPTS
from packaging.requirements import Requirement

ALLOWED = ("torch", "transformers", "numpy", "pyarrow", "safetensors")
OWN = "embedome"
GPU_ONLY = {"syncs", "memory", "exhausted", "copies", "devices"}
# Python imports it at each start; every process that the benchmark starts has it.
BLOCK = """
import json
from importlib.machinery import PathFinder
from pathlib import Path

BLOCKED = set(json.loads(Path(__file__).with_name("blocked.json").read_text()))
find_spec = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *a: None if name.partition(".")[0] in BLOCKED else find_spec(name, *a))
"""


def with_requirements(names: tuple[str, ...]) -> set[str]:
    """Distributions, and all that they need, extras apart."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            needed = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue
        found.add(name)
        left += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture
def bare_environment(tmp_path: Path) -> dict[str, str]:
    """An environment whose Python imports no other package than those allowed and what they need."""
    allowed = with_requirements(ALLOWED)
    blocked = [
        module
        for module, owners in packages_distributions().items()
        if module != OWN and not allowed & {owner.lower().replace("_", "-") for owner in owners}
    ]
    assert {"isal", "snakemake", "distributed", "faiss", "Bio"} <= set(blocked)
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCK)
    (folder / "blocked.json").write_text(json.dumps([*blocked, "backports"]))
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{SCRIPTS}"}


def benchmark(out: Path, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(out), "--device", "cpu", "--small"]
    return subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
def test_every_step_runs_on_a_bare_machine(tmp_path, bare_environment):
    out = tmp_path / "rows.jsonl"
    result = benchmark(out, bare_environment, "--seconds", "3000")
    assert result.returncode == 0, result.stderr[-2000:] + result.stdout[-2000:]
    rows = rows_of(out)
    assert [row for row in rows if "error" in row] == []
    steps = [row["step"] for row in rows if "ended" in row]
    listing = subprocess.run(
        [sys.executable, "-c", "from gpu_steps.plan import STEPS; print(*[step.name for step in STEPS])"],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
        check=True,
    )
    assert steps == listing.stdout.split()
    for step in steps:
        found = [row for row in rows if row["step"] == step and "what" in row]
        assert found, f"{step} left no row"
        assert (step in GPU_ONLY) == (found == [{"step": step, "what": "needs a GPU"}])


def test_a_package_that_is_not_allowed_is_not_there(bare_environment):
    """Or the test above would prove nothing."""
    for module, there in (("isal", False), ("backports.zstd", False), ("snakemake", False), ("pyarrow", True)):
        result = subprocess.run([sys.executable, "-c", f"import {module}"], env=bare_environment, capture_output=True)
        assert (result.returncode == 0) == there, module
