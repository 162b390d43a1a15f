"""benchmarks/gpu.py gets to its end, on a bare machine and whatever becomes of the processes that run its steps."""

import json
import os
import runpy
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from helpers.paths import ROOT, SCRIPTS
from packaging.requirements import Requirement

ALLOWED = ("torch", "transformers", "numpy", "pyarrow", "safetensors")
OWN = "embedome"
SCRIPT = ROOT / "benchmarks" / "gpu.py"
GPU_ONLY = {"syncs", "memory", "fused", "exhausted", "copies", "devices"}
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
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--small"]
    return subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
def test_every_step_runs_on_a_bare_machine(tmp_path, bare_environment):
    out = tmp_path / "rows.jsonl"
    result = benchmark(out, bare_environment, "--device", "cpu", "--seconds", "3000")
    assert result.returncode == 0, result.stderr[-2000:] + result.stdout[-2000:]
    rows = rows_of(out)
    assert [row for row in rows if "error" in row] == []
    assert {row["ended"] for row in rows if "ended" in row} == {"done"}
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


@pytest.mark.slow
def test_without_a_gpu_it_says_so_once(tmp_path):
    out = tmp_path / "rows.jsonl"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(SCRIPTS)}
    result = benchmark(out, environment, "--device", "cuda", "--steps", "environment", "peak")
    assert result.returncode
    assert result.stderr.count("a GPU was asked for, but torch") == 1
    assert [row["ended"] for row in rows_of(out)] == ["there is no device"] * 2


def test_all_steps_fit_into_one_call(gpu):
    assert sum(step.seconds for step in gpu["STEPS"]) <= gpu["LIMIT_SECONDS"]
    assert gpu["LIMIT_SECONDS"] + gpu["LAST_SECONDS"] < 600


# In the place of the process that runs the steps: one that is well, one that ends the process, one that hangs, and one
# after which the device needs another process.
STEPS = """
import json, os, sys, time

out, names = sys.argv[sys.argv.index("--out") + 1], sys.argv[sys.argv.index("--steps") + 1:]
for name in names:
    if name == "peak":
        os.abort()
    if name == "parity":
        time.sleep(600)
    with open(out, "a") as stream:
        print(json.dumps({"step": name, "what": "a row"}), file=stream)
        print(json.dumps({"step": name, "ended": "done"}), file=stream)
    if name == "models":
        sys.exit(75)
"""
NAMES = ["environment", "peak", "parity", "models", "files"]


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """The benchmark's names; the process that it starts is the file above, and no step may take longer than a while."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    names = runpy.run_path(str(SCRIPT))["main"].__globals__
    stub = tmp_path / "stub.py"
    stub.write_text(STEPS)
    steps = {name: step._replace(seconds=0) for name, step in names["BY_NAME"].items()}
    for name, value in {"__file__": str(stub), "BY_NAME": steps, "SILENT_SECONDS": 3}.items():
        monkeypatch.setitem(names, name, value)
    return names


def test_a_step_that_ends_or_hangs_its_process_is_recorded_and_the_others_are_run(gpu, tmp_path, monkeypatch):
    out = tmp_path / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(out), "--steps", *NAMES])
    with pytest.raises(SystemExit, match="peak: its process ended with -6\nparity: its process hung, and was killed"):
        gpu["main"]()
    ended = {row["step"]: row["ended"] for row in rows_of(out) if "ended" in row}
    assert ended == dict.fromkeys(NAMES, "done") | {"peak": "error", "parity": "error"}


def test_what_is_left_when_the_time_is_over_is_said_to_be_left(gpu, tmp_path, monkeypatch):
    out = tmp_path / "rows.jsonl"
    monkeypatch.setitem(gpu, "LAST_SECONDS", 0)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(out), "--seconds", "1", "--steps", "parity", "models"])
    gpu["main"]()
    assert rows_of(out) == [{"step": step, "ended": gpu["OVER"]} for step in ("parity", "models")]
