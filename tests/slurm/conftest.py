"""The cluster, once for all tests on it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.slurm_cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    folder = Path("/run") / f"embedome-slurm-{os.getpid()}"
    try:
        with Cluster(folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)
