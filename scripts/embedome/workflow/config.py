"""Checking a configuration: one line per fault, in the words of whoever wrote it."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from embedome.catalog.criteria import pattern_fault
from embedome.common.errors import UserError, quote_value
from embedome.common.json_files import json_sha256
from embedome.common.yaml_aliases import check_aliases
from embedome.evaluation.head_recipes import check_head
from embedome.evaluation.own_task import OWN, name_results
from embedome.evaluation.settings import EvaluateSettings
from embedome.evaluation.tasks import TASKS
from embedome.models.registry import REGISTRY
from embedome.sequences.header_ids import HeaderIds
from embedome.training.recipes import RECIPES
from embedome.workflow.config_values import value_faults

# Databases of which UniProt keeps old releases in one archive.
UNIREF = ("uniref50", "uniref90", "uniref100")
# Where a model directory comes from that is not there beforehand: one of them, or none.
ORIGINS = ("hub", "untrained", "pretrain")
# What decides which sequences there are, and where each goes; how they are embedded is in the provenance by itself.
# Left out is where things are: what is in them is known by the digests of the source's files, and of the taxa that the
# taxonomy lists.
SCIENCE = ("filter", "cluster", "split", "leakage")


def check_config(config: Mapping[str, Any], schema: Mapping[str, Any], place: Callable[[str], str] = str) -> None:
    """Check a configuration against its JSON schema, and its keys against each other; `place` is as of `Paths`.

    Raises
    ------
    UserError
        Lists each wrong key as typed, with what was found and what is expected.
    """
    from jsonschema import Draft202012Validator

    check_aliases(config, "configuration")
    refuse(list(value_faults(config)))
    errors = sorted(Draft202012Validator(schema).iter_errors(config), key=lambda error: [str(p) for p in error.path])
    faults = [fault for error in errors for fault in describe(error)] or list(contradictions(config, place))
    refuse(faults)


def refuse(faults: Sequence[str]) -> None:
    """Raise an error with a line for each fault, if there is any."""
    if faults:
        raise UserError("\n".join(f"configuration: {fault}" for fault in faults))


def describe(error: Any) -> Iterator[str]:
    """Say what is wrong in a line per key."""
    path = ".".join(str(part) for part in error.path)
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        for key in error.instance:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
                yield f"unknown key {dotted(path, key)!r}; {hint}"
    elif error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance:
                yield f"{dotted(path, key)} is missing; expected {expectation(error.schema['properties'][key])}"
    else:
        hint = ", with a point: 1.0e-3" if re.fullmatch(r"'[-+]?\d+[eE][-+]?\d+'", quote_value(error.instance)) else ""
        yield f"{path} is {quote_value(error.instance)}; expected {expectation(error.schema)}{hint}"


def dotted(path: str, key: Any) -> str:
    """Return a key with the path to it."""
    return f"{path}.{key}" if path else str(key)


def expectation(schema: Mapping[str, Any]) -> str:
    """Say what a schema admits, in words."""
    if "enum" in schema:
        return "one of " + ", ".join("null" if value is None else str(value) for value in schema["enum"])
    kinds = schema.get("type", "object")
    words = [" or ".join([kinds] if isinstance(kinds, str) else kinds)]
    if schema.get("uniqueItems"):
        words.append("each item once")
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "pattern": "of the form"}
    words += [f"{text} {schema[key]}" for key, text in limits.items() if key in schema]
    if "minLength" in schema:
        words.append("not empty")
    return ", ".join(words)


def contradictions(config: Mapping[str, Any], place: Callable[[str], str] = str) -> Iterator[str]:
    """Yield faults between keys that are each well-formed; `place` is as of `Paths`."""
    source, limits, embed = config["source"], config["filter"], config["embed"]
    if source["kind"] == "fasta" and not source["fasta"]:
        yield "source.fasta is []; expected at least one path, as source.kind is 'fasta'"
    if source["kind"] == "release" and not source["mirrors"]:
        yield "source.mirrors is []; expected at least one URL, as source.kind is 'release'"
    if source["kind"] == "release" and source["release"] and source["database"] not in UNIREF:
        known = ", ".join(UNIREF)
        yield f"source.database is {source['database']!r}; expected one of {known}, as source.release is given"
    if source["kind"] == "url" and not source["url"]:
        yield "source.url is None; expected an address, as source.kind is 'url'"
    if source["missing_structure"] != "error" and not source["structure"]:
        found = source["missing_structure"]
        yield f"source.missing_structure is {found!r}; expected error, as source.structure is null"
    for key in ("include_names", "exclude_names"):
        yield from (fault for pattern in limits[key] if (fault := pattern_fault(f"filter.{key}", pattern)))
    try:
        HeaderIds.of_setting(source["id"])
    except UserError as error:
        yield str(error)
    held_out = [config["split"][name] for name in ("val", "test")]
    if max(held_out) < 1 and sum(held_out) > 1:
        yield f"split.val and split.test are {held_out[0]} and {held_out[1]}; expected fractions of 1 together at most"
    shortest, longest = limits["min_length"], limits["max_length"]
    if longest is not None and longest < shortest:
        yield f"filter.max_length is {longest}; expected at least filter.min_length, {shortest}"
    earlier = config["reuse"]["dataset"]
    if earlier and Path(earlier).resolve() == Path(place(f"results/dataset/{config['model']['name']}")).resolve():
        yield f"reuse.dataset is {earlier!r}, which this run writes; move that data set, and name its new place"
    if embed["per_residue"] and isinstance(embed["layer"], list) and len(embed["layer"]) > 1:
        yield f"embed.layer is {embed['layer']}; expected one layer, as embed.per_residue is true"
    if earlier and embed["per_residue"]:
        yield f"reuse.dataset is {earlier!r}; expected null, as per-residue embeddings cannot be reused"
    if config["split"]["method"] == "bionemo" and drops_leaks(config):
        found = config["leakage"]["drop_above"]
        yield f"leakage.drop_above is {found}; expected null, as split.method 'bionemo' reproduces a split as it was"
    given = [f"model.{name}" for name in ORIGINS if config["model"][name]]
    if len(given) > 1:
        yield f"{' and '.join(given)} are given; expected null for all but one of them"
    if untrained := config["model"]["untrained"]:
        yield from untrained_faults(untrained)
    if pretrain := config["model"]["pretrain"]:
        yield from pretrain_faults(pretrain)
    yield from evaluation_faults(config["evaluate"], embed)
    if config["finetune"]["task"]:
        yield from finetune_faults(config["finetune"], embed)
    if embed["long_sequences"] != "window" and embed["overlap"]:
        yield f"embed.overlap is {embed['overlap']}; expected 0, as embed.long_sequences is not 'window'"


def release_name(release: str | int | None) -> str | None:
    """Return a release as UniProt writes it; YAML takes 2024_05 for the number 202405.

    Examples
    --------
    >>> release_name(202405)
    '2024_05'
    """
    return f"{release // 100}_{release % 100:02}" if isinstance(release, int) else release


def untrained_faults(untrained: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the model to be made."""
    if untrained["like"] not in REGISTRY:
        yield f"model.untrained.like is {untrained['like']!r}; expected one of {', '.join(REGISTRY)}"
        return
    sizes = {name: untrained[name] or own for name, own in REGISTRY[untrained["like"]].sizes.items()}
    if sizes["hidden"] % sizes["heads"]:
        yield f"model.untrained.hidden is {sizes['hidden']}; expected a multiple of heads, {sizes['heads']}"


def pretrain_faults(pretrain: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the training of a model."""
    if pretrain["recipe"] not in RECIPES:
        yield f"model.pretrain.recipe is {pretrain['recipe']!r}; expected one of {', '.join(RECIPES)}"
        return
    recipe = RECIPES[pretrain["recipe"]]
    own = {**REGISTRY[recipe.model].sizes, **recipe.sizes}
    sizes = {name: pretrain[name] or size for name, size in own.items()}
    if sizes["hidden"] % sizes["heads"]:
        yield f"model.pretrain.hidden is {sizes['hidden']}; expected a multiple of heads, {sizes['heads']}"


def evaluation_faults(evaluate: Mapping[str, Any], embed: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the tasks that the model's vectors are evaluated on."""
    if evaluate["tasks"] and embed["features"] != "encoder":
        yield f"embed.features is {embed['features']!r}; expected 'encoder', as evaluate.tasks are given"
    asked = EvaluateSettings(methods=tuple(evaluate["methods"]), heads=tuple(evaluate["heads"]))
    names: set[str] = set()
    for task in evaluate["tasks"]:
        name = name_results(task["name"], task["data"])
        if name is None:
            yield f"evaluate.tasks: own has {', '.join(task['data'])}; expected a FASTA file and a table, .tsv or .csv"
        elif name in names:
            yield f"evaluate.tasks has {name} twice; expected each name once, of an own task that of its table"
        names |= {name} if name else set()
        if task["name"] not in (OWN, *TASKS):
            yield f"evaluate.tasks: no task is called {task['name']!r}; expected one of {', '.join(TASKS)}, or {OWN}"
        elif task["name"] != OWN:
            try:
                asked.fitting(TASKS[task["name"]])
            except UserError as error:
                yield str(error)


def finetune_faults(finetune: Mapping[str, Any], embed: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the task that the model is fine-tuned on."""
    name, data = finetune["task"], finetune["data"]
    if embed["features"] != "encoder" or embed["long_sequences"] == "window":
        yield "finetune.task is given; expected embed.features 'encoder', and no windows in embed.long_sequences"
    if not data or name_results(name, data) is None:
        expected = "a FASTA file and a table, .tsv or .csv" if name == OWN else "the files of the task"
        yield f"finetune.data is {', '.join(data) or 'empty'}; expected {expected}"
    if name not in (OWN, *TASKS):
        yield f"finetune.task: no task is called {name!r}; expected one of {', '.join(TASKS)}, or {OWN}"
    elif name != OWN and finetune["head"]:
        try:
            check_head(finetune["head"], TASKS[name].level, TASKS[name].kind)
        except UserError as error:
            yield f"finetune.head: {error}"


def load_schema(path: str | Path) -> dict[str, Any]:
    """Read the schema file."""
    import yaml

    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def without(section: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return a section of the configuration without some of its keys."""
    return {key: value for key, value in section.items() if key not in keys}


def uses_clusters(config: Mapping[str, Any]) -> bool:
    """Return whether sequences are clustered: for the split, or as a redundancy filter."""
    return config["split"]["method"] == "cluster" or config["cluster"]["as"] == "filter"


def drops_leaks(config: Mapping[str, Any]) -> bool:
    """Return whether train sequences that are like held-out ones are dropped."""
    return config["leakage"]["drop_above"] is not None


def config_sha256(config: Mapping[str, Any]) -> str:
    """Return the digest of the keys that decide about sequences; an idle stage's keys are not among them.

    It is the same wherever the files lie that are worked on.
    """
    idle = {"cluster": not uses_clusters(config), "leakage": not drops_leaks(config)}
    deciding = {key: config[key] for key in SCIENCE if not idle.get(key)}
    deciding["filter"] = without(config["filter"], "taxonomy")
    if config["source"]["id"] is not None:
        deciding["id"] = config["source"]["id"]
    return json_sha256(deciding)
