"""Dask workers for merge and analyse: threads of the job itself, or Slurm jobs of their own."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import embedome
from embedome.common.settings import from_section

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy import Cluster

log = logging.getLogger(__name__)


HERE = "local"


def is_no_failed_task(record: logging.LogRecord) -> bool:
    """Return whether a line of Dask's log is another one than that a task has failed."""
    return not str(record.msg).startswith("Compute Failed")


@dataclass(frozen=True, slots=True)
class DaskWorkers:
    """Where tasks run, and how many at once.

    Parameters
    ----------
    cluster : str
        ``local`` or ``slurm``.
    threads : int
        For ``local``: cores; one task more runs at once, so that one waits for the disk while the others compute.
    jobs : int
        For ``slurm``: each of one core.
    memory_mb, runtime : int
        For ``slurm``: of a job, in megabytes and minutes.
    logs : str
        For ``slurm``: folder of the jobs' logs.
    """

    cluster: str = HERE
    threads: int = 1
    jobs: int = 4
    memory_mb: int = 4000
    runtime: int = 240
    logs: str = "."

    @classmethod
    def from_config(cls, section: Mapping[str, Any], threads: int, log: object) -> Self:
        """Take the configuration's section ``dask``, and of a job its cores and log; Dask's logs lie beside that."""
        return from_section(cls, section, threads=threads, logs=f"{log}.dask")

    @property
    def at_once(self) -> int:
        """Tasks that run at once."""
        return self.threads + 1 if self.cluster == HERE else self.jobs

    @contextmanager
    def client(self) -> "Iterator[Client]":
        """Start the workers, yield a client of theirs, and end them after the block."""
        from distributed import Client

        with self.start() as cluster, Client(cluster) as client:
            yield client

    def start(self) -> "Cluster":
        """Start a cluster; the workers of Slurm's come as their jobs start."""
        from distributed import LocalCluster

        logging.getLogger("distributed").setLevel(logging.WARNING)
        # A task's error reaches who asked for its result, which says it once.
        logging.getLogger("distributed.worker").addFilter(is_no_failed_task)
        if self.cluster == HERE:
            # Within this process: no port is opened, and nothing is left where it is killed.
            return LocalCluster(
                n_workers=1, threads_per_worker=self.at_once, processes=False, dashboard_address=None, memory_limit=0
            )
        from dask_jobqueue import SLURMCluster

        # Account and partition are those of the job that starts them; what else a site needs stands in its
        # jobqueue.yaml. Without a master, workers end after a minute.
        cluster = SLURMCluster(
            cores=1,
            processes=1,
            memory=f"{self.memory_mb}MB",
            walltime=f"{self.runtime // 60:02d}:{self.runtime % 60:02d}:00",
            account=os.environ.get("SLURM_JOB_ACCOUNT"),
            queue=os.environ.get("SLURM_JOB_PARTITION"),
            python=sys.executable,
            job_name="embedome-dask",
            local_directory=tempfile.gettempdir(),
            log_directory=self.logs,
            job_script_prologue=[f"export PYTHONPATH='{Path(embedome.__file__).parents[1]}'"],
            scheduler_options={"dashboard_address": None},
        )
        cluster.scale(jobs=self.jobs)
        log.info("asked Slurm for %d Dask workers", self.jobs)
        return cluster
