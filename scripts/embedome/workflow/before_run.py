"""What is checked before a run: its configuration, the files that it names, and the folders that it will write."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedome.catalog.table import check_own_catalog
from embedome.evaluation.data_files import split_and_path
from embedome.models.create import check_own_directory
from embedome.models.directory import check_model_directory
from embedome.models.fetched_directory import check_own_fetch
from embedome.sequences.input_files import list_files
from embedome.training.beginning import check_beginning
from embedome.training.own_model import check_own_model
from embedome.workflow.config import ORIGINS, check_config, refuse
from embedome.workflow.other_results import check_other_results
from embedome.workflow.paths import FAMILIES, Paths


def check_run(config: Mapping[str, Any], schema: Mapping[str, Any], paths: Paths, *, files: bool) -> None:
    """Check a configuration, the model directory that it names, and its files before anything runs.

    Parameters
    ----------
    config : mapping
    schema : mapping
        Its JSON schema.
    paths : Paths
        Of the run.
    files : bool
        Check that the files exist that the configuration names, and that the folders of the catalog and of a model
        to be made may be written.

    Raises
    ------
    UserError
        Lists what is wrong.
    """
    check_config(config, schema, paths.place)
    if paths.is_kind("fasta"):
        list_files(config["source"]["fasta"])
    hub, untrained, pretrain = (config["model"][key] for key in ORIGINS)
    if not (hub or untrained or pretrain):
        check_model_directory(config["model"]["directory"])
    if pretrain and pretrain["init"]:
        check_beginning(pretrain["init"])
    if files:
        check_files(config, made=[FAMILIES])
        check_other_results(config, paths)
        # Snakemake removes what a rule makes before it runs, whatever else is in a folder.
        check_own_catalog(paths.place("results/catalog"))
        if hub:
            check_own_fetch(paths.model_directory)
        if untrained:
            check_own_directory(paths.model_directory)
        if pretrain:
            check_own_model(paths.model_directory)


def check_files(config: Mapping[str, Any], made: Sequence[str] = ()) -> None:
    """Check that the files exist that the configuration names.

    If a rule's input is missing but its output exists, Snakemake takes the output for a file that was given.

    Parameters
    ----------
    config : mapping
    made : sequence of str
        Files that the workflow makes itself.

    Raises
    ------
    UserError
        Names each key and path.
    """
    source, earlier = config["source"], config["reuse"]["dataset"]
    named = [("source.fasta", path) for path in source["fasta"] if source["kind"] == "fasta"]
    named.append(("filter.taxonomy", config["filter"]["taxonomy"]))
    named += [(f"annotate.{key}", config["annotate"][key]) for key in ("labels", "ontology")]
    named.append(("source.structure", source["structure"]))
    named.append(("reuse.dataset", earlier and f"{earlier}/_manifest.json"))
    evaluated = [("evaluate.tasks", path) for task in config["evaluate"]["tasks"] for path in task["data"]]
    tuned = [("finetune.data", path) for path in config["finetune"]["data"] if config["finetune"]["task"]]
    named += [(key, str(split_and_path(path)[1])) for key, path in (*evaluated, *tuned)]
    missing = [(key, path) for key, path in named if path and path not in made and not Path(path).exists()]
    refuse([f"{key}: {path}: no such file; check the path" for key, path in missing])
