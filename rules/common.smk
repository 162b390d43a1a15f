# The configuration checked, and where files are; no rules. What is computed from it is in scripts/embedome/workflow.
import sys
from pathlib import Path

from snakemake.io import strip_wildcard_constraints

SCRIPTS = str(Path(workflow.basedir) / "scripts")
sys.path.insert(0, SCRIPTS)

from embedome.common.errors import UserError
from embedome.common.terms import SPLITS
from embedome.evaluation.settings import OF_EMBED
from embedome.workflow.config import (
    check_run,
    config_sha256,
    drops_leaks,
    uses_clusters,
    without,
)
from embedome.workflow.library import use_in_jobs
from embedome.workflow.paths import EVALUATION, FAMILIES, Paths
from embedome.workflow.resources import (
    RESIDUES_MB,
    by_attempt,
    by_attempt_and_records,
    by_attempt_and_size,
    further_vectors_mb,
)

# Not another version of it that is installed.
use_in_jobs(SCRIPTS)

try:
    # Jobs read this file, too, and need not see what stages before theirs have read.
    check_run(
        config,
        Path(workflow.basedir) / "schemas" / "config.schema.yaml",
        made=[FAMILIES],
        files=workflow.is_main_process,
    )
except UserError as error:
    sys.exit(str(error))

paths = Paths(config)
MODEL = paths.model


wildcard_constraints:
    split="|".join(SPLITS),
    shard=r"\d{5}",
    model=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    database=r"[A-Za-z0-9_.-]+",
    task=r"[^/]+",


def run_benchmarks(wildcards):
    """Benchmark files of this run, by rule; its rules are known once all are read."""
    return paths.benchmarks(
        (each.name, strip_wildcard_constraints(str(each.benchmark)))
        for each in workflow.rules
        if each.benchmark is not None
    )
