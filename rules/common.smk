# The configuration checked, and where files are; no rules. What is computed from it is in scripts/embedome/workflow.
import os
import sys
from collections import Counter
from pathlib import Path

from snakemake.common.configfile import load_configfile
from snakemake.io import local, strip_wildcard_constraints

# Of this file, whoever's workflow uses it as a module: workflow.basedir is the caller's.
RULES = workflow.current_basedir.get_path_or_uri(secret_free=True)
# The library is beside them in a checkout. A folder of `embedome workflow` and a module that Snakemake fetches have the
# rules alone: then it is the installed one, of this version.
VERSION = "0.2.0.dev0"
SCRIPTS = Path(RULES).parent / "scripts"
if (SCRIPTS / "embedome").is_dir():
    sys.path.insert(0, str(SCRIPTS))
try:
    from embedome import __version__ as found
except ModuleNotFoundError:
    found = "none"
if found != VERSION:
    sys.exit(
        f"{RULES}: the rules are those of embedome {VERSION}, and {sys.executable} has {found}; install that version "
        "there, or name the Snakefile of a clone (docs/install.md)"
    )

from embedome.common.errors import UserError
from embedome.common.terms import SPLITS
from embedome.evaluation.settings import OF_EMBED
from embedome.workflow.before_run import check_run
from embedome.workflow.config import (
    config_sha256,
    drops_leaks,
    load_schema,
    uses_clusters,
    without,
)
from embedome.workflow.config_values import complete_config
from embedome.workflow.library import use_in_jobs
from embedome.workflow.paths import EVALUATION, FAMILIES, Paths
from embedome.workflow.resources import (
    RESIDUES_MB,
    by_attempt,
    by_attempt_and_records,
    by_attempt_and_size,
    further_vectors_mb,
)
from embedome.workflow.slurm_arrays import check_arrays
from embedome.workflow.slurm_nodes import check_nodes, resources_of_nodes

# Not another version of it that is installed.
use_in_jobs(Path())

# As a module's it holds what the caller names alone, and of the command line text in place of numbers.
schema = load_schema(workflow.source_path("../schemas/config.schema.yaml"))
config = complete_config(
    config, load_configfile(workflow.source_path("../config.yaml")), schema
)

# A module's prefix.
place = workflow.modifier.path_modifier.replace_prefix


def given(path):
    """Mark a file of the user's, which is where the configuration says; the prefix is for what the rules write."""
    return path if place("results") == "results" else local(path)


paths = Paths(config, place=place, given=given)
try:
    # Jobs read this file, too, and need not see what stages before theirs have read.
    check_run(config, schema, paths, files=workflow.is_main_process)
except UserError as error:
    sys.exit(str(error))

MODEL = paths.model


wildcard_constraints:
    split="|".join(SPLITS),
    shard=r"\d{5}",
    model=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    database=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    task=r"[^/]+",


# By their own names, whatever a caller calls them.
OWN_RULES = rules._rules


def run_benchmarks(wildcards):
    """Benchmark files of this run's rules, which are known once all are read; of a caller's rules there are none."""
    own = {
        name: proxy.rule
        for name, proxy in OWN_RULES.items()
        if proxy.rule in workflow.rules
        and proxy.rule.basedir.get_path_or_uri(secret_free=True) == RULES
    }
    return paths.benchmarks(
        (name, strip_wildcard_constraints(str(rule.benchmark)))
        for name, rule in own.items()
        if rule.benchmark is not None
    )


# Before anything is queued.
onstart:
    executor = workflow.scheduler._executor
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    # Without a cluster there are no nodes.
    at_once = [
        workflow.nodes or sys.maxsize,
        limit.max_jobs if limit else sys.maxsize,
    ]
    try:
        check_arrays(
            Counter(job.rule.name for job in workflow.dag.needrun_jobs()),
            getattr(executor, "array_jobs", ()),
            getattr(executor, "max_array_size", 1),
            min(at_once),
        )
        in_slurm = type(executor).__module__.startswith(
            "snakemake_executor_plugin_slurm"
        )
        for job in workflow.dag.needrun_jobs():
            if job.rule.name == "pretrain":
                check_nodes(
                    config["model"]["pretrain"]["nodes"],
                    config["model"]["pretrain"]["ranks"],
                    job.resources,
                    in_slurm=in_slurm or "SLURM_JOB_ID" in os.environ,
                )
    except UserError as error:
        sys.exit(str(error))
