"""Running the workflow in a folder of its own, on a small configuration."""

import copy
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from helpers.paths import ROOT

# What a run must give again, byte for byte; logs, run times and Snakemake's own report are left out.
RESULTS = (
    "catalog",
    "rejects.parquet",
    "members.parquet",
    "splits.parquet",
    "shards",
    "summaries",
    "embeddings",
    "dataset",
    "ledger.json",
    "analysis",
    "report",
)

SMALL = {
    "demo": {"sequences": 300, "families": 12, "seed": 3},
    "split": {"val": 0.2, "test": 0.2},
    "shard": {"val": 1, "test": 1, "train": 2},
    "model": {
        "name": "esm1nv-demo",
        "directory": "resources/models/esm1nv-demo",
        "untrained": {
            "like": "esm1nv",
            "layers": 2,
            "decoder_layers": None,
            "hidden": 32,
            "heads": 4,
            "feed_forward": 64,
            "positions": 64,
            "seed": 0,
        },
        "pretrain": None,
    },
    "cost": {"longest": 62},
    "embed": {"part_sequences": 40},
    # A map takes ten seconds and more, however small.
    "report": {"umap_sequences": 0},
}


def changed(config: dict, **sections: dict) -> dict:
    """A copy of a configuration with some keys of its sections replaced."""
    config = copy.deepcopy(config)
    for name, keys in sections.items():
        config[name] = {**config.get(name, {}), **keys}
    return config


def command(folder: Path, config: dict | None, *arguments: str, cores: int = 2) -> list[str]:
    """The snakemake command line for a run in a folder."""
    given = []
    if config is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "small.yaml"
        path.write_text(yaml.safe_dump(config))
        given = ["--configfile", str(path)]
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    return [*snakemake, "--cores", str(cores), "--nolock", *given, *arguments]


def run(folder: Path, config: dict | None, *arguments: str, cores: int = 2) -> subprocess.CompletedProcess[str]:
    """Run the workflow; give its exit code and output."""
    return subprocess.run(
        command(folder, config, *arguments, cores=cores),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )


def run_and_kill(folder: Path, config: dict, log: str, seconds: float = 0.0) -> bool:
    """Start the workflow and kill -9 all of it once a log file is there; give whether that came to pass.

    Parameters
    ----------
    folder, config
        As for `run`.
    log : str
        Glob pattern below results/logs.
    seconds : float
        How long after the log file appeared.
    """
    process = subprocess.Popen(
        command(folder, config), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    logs = folder / "results" / "logs"
    before = set(logs.glob(log))
    deadline = time.monotonic() + 120
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if set(logs.glob(log)) - before:
                time.sleep(seconds)
                return process.poll() is None
            time.sleep(0.01)
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def small_demo(folder: Path) -> Path:
    """A finished run of `SMALL` on two cores in a folder, once for all processes that test beside each other."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "results/ledger.json").exists():
            result = run(folder, SMALL)
            assert result.returncode == 0, result.stdout
    return folder


def take_model(demo: Path, folder: Path) -> Path:
    """Put the demo's model into the folder of another run, which then does not make it again."""
    directory = Path(SMALL["model"]["directory"])
    shutil.copytree(demo / directory, folder / directory)
    return folder


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every result of a run, by path."""
    found = {}
    for name in RESULTS:
        path = folder / "results" / name
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.is_file() and file.name != ".snakemake_timestamp":
                found[str(file.relative_to(folder))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found
