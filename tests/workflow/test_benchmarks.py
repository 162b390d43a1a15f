"""The scripts of benchmarks/ run to their end, at the smallest size; what they print is not looked at."""

import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT, SCRIPTS

pytestmark = pytest.mark.slow

SMALLEST = {
    "analyse": ["--rows", "400", "--files", "1", "--dimension", "16", "--rounds", "1"],
    "cpu_dtypes": ["--sequences", "4", "--rounds", "1"],
    "filter": ["--records", "500", "--rounds", "1"],
    "lora": ["--hidden", "32", "--layers", "1", "--proteins", "32", "--rounds", "1"],
    "merge": ["--shards", "2", "--rows", "200", "--dimension", "16", "--rounds", "1"],
    "neighbours": ["--rows", "500", "--queries", "50", "--dimension", "16", "--rounds", "1"],
    "overhead": ["--sequences", "300"],
    "pretraining": ["--layers", "1", "--hidden", "32", "--sequences", "32", "--rounds", "1"],
    "reading": ["--rows", "400", "--files", "2", "--dimension", "16", "--rounds", "1"],
    "residues": ["--dimension", "48", "--sequences", "50", "--rounds", "1"],
    "scale": ["--records", "1000"],
    "uniref_xml": ["--entries", "300"],
}
NOT_RUN_HERE = {
    "engine_cpu": "models of full width take minutes",
    "gain": "needs FLIP's files",
    "gpu": "has a test of its own",
    "leakage": "needs proteins of one's own",
    "map_frames": "needs Chromium; what it opens is tested with the map",
    "parity": "models of full depth take minutes; tests compare each encoder",
    "simulate_gpu": "counts models of full width, minutes",
}
IMPORTED = {"made_inputs", "run_esm_cpp"}


def test_each_script_is_run_or_there_is_a_reason():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert scripts == {*SMALLEST, *NOT_RUN_HERE, *IMPORTED}


@pytest.mark.parametrize("name", list(SMALLEST))
def test_a_script_runs_to_its_end(name, tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", *SMALLEST[name]]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), "TMPDIR": str(tmp_path)}
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout
