# Paths and helpers; no rules.
import json
import sys
from pathlib import Path

from snakemake.io import strip_wildcard_constraints

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from embedome.workflow.config import (
    check_config,
    check_files,
    config_sha256,
    drops_leaks,
    load_schema,
    release_name,
    uses_clusters,
)
from embedome.common.errors import UserError
from embedome.models.directory import check_model_directory, check_own_directory
from embedome.models.tokenizer import vocabulary_files
from embedome.models.checkpoint import weight_files

# Which family each of the demo's sequences is of.
FAMILIES = "resources/demo/mirror/families.tsv.gz"

try:
    check_config(
        config, load_schema(Path(workflow.basedir) / "schemas" / "config.schema.yaml")
    )
    if not config["model"]["untrained"]:
        check_model_directory(config["model"]["directory"])
    # Jobs read this file, too, and need not see what stages before theirs have read.
    if workflow.is_main_process:
        check_files(config, made=[FAMILIES])
        if config["model"]["untrained"]:
            check_own_directory(config["model"]["directory"])
except UserError as error:
    sys.exit(str(error))

config["source"]["release"] = release_name(config["source"]["release"])

SPLITS = ["val", "test", "train"]
MODEL = config["model"]["name"]


wildcard_constraints:
    split="|".join(SPLITS),
    shard=r"\d{5}",
    model=r"[A-Za-z0-9][A-Za-z0-9_.-]*",
    database=r"[A-Za-z0-9_.-]+",


def get_targets():
    """What `rule all` asks for."""
    return [
        f"results/dataset/{MODEL}/_manifest.json",
        "results/ledger.json",
        f"results/runtimes/{MODEL}.tsv",
        *get_annotation(),
    ]


def get_annotation():
    """The annotation's summary, where a table of labels is given."""
    given = config["annotate"]["labels"]
    return [f"results/annotation/{MODEL}/_summary.json"] if given else []


def measured_leakage():
    """What leaks from val and test into train, where it is to be measured."""
    return "results/summaries/leakage.json" if config["leakage"]["measure"] else []


def sequences_to_compare():
    """The catalog, where annotated proteins above some identity are left out."""
    limited = config["annotate"]["max_identity"] is not None
    return "results/catalog" if limited else []


def is_kind(kind):
    """Whether the sequences come from a demo release, a downloaded one, an address, or files of the user's."""
    return config["source"]["kind"] == kind


def old_release():
    """The release to take out of an archive, if one is."""
    return config["source"]["release"] if is_kind("release") else None


def file_format():
    """Of the release's file: UniProt's archives hold XML alone."""
    chosen = config["source"]["format"] if is_kind("release") else "fasta"
    return chosen or ("xml" if old_release() else "fasta")


def release_folder():
    """Where the downloaded release lies; no other must be taken for it, be it the demo or an older one."""
    if is_kind("demo"):
        return "resources/demo"
    release = f"-{old_release()}" if old_release() else ""
    return f"resources/release{release}{'-xml' if file_format() == 'xml' else ''}"


def release_file(name):
    """A file of what was downloaded."""
    folder = "resources/url" if is_kind("url") else release_folder()
    return f"{folder}/{database()}/{name}"


def database():
    """Name of the database; the demo is always a UniRef50."""
    return "uniref50" if is_kind("demo") else config["source"]["database"]


def get_fasta():
    """The sequence files to filter."""
    if is_kind("fasta"):
        return config["source"]["fasta"]
    if is_kind("url"):
        return [release_file("sequences")]
    return [release_file(f"{database()}.{file_format()}.gz")]


def get_release():
    """The release.json of a downloaded file, if it was downloaded."""
    return [] if is_kind("fasta") else release_file("release.json")


def is_redundancy_filter():
    """Whether only the representatives of clusters are kept."""
    return config["cluster"]["as"] == "filter"


def later_rejects():
    """Lists of records that are rejected behind the filter: shards are of what is left."""
    lists = {
        "results/rejects_redundant.parquet": is_redundancy_filter(),
        "results/rejects_leak.parquet": drops_leaks(config),
    }
    return [path for path, wanted in lists.items() if wanted]


def drawn(name):
    """A file of the split stage: the final one, or where leaks are dropped behind it one of its own."""
    return f"results/drawn/{name}" if drops_leaks(config) else f"results/{name}"


def without(section, *keys):
    """A section of the configuration without some of its keys."""
    return {key: value for key, value in config[section].items() if key not in keys}


def shard_names(split):
    """Names of a split's shards; their number is configured, so that the graph of jobs is known from the start."""
    return [f"{index:05d}" for index in range(config["shard"][split])]


def all_shards(pattern):
    """A path for every shard of every split; the pattern has the fields split and shard."""
    return [
        pattern.format(split=split, shard=shard)
        for split in SPLITS
        for shard in shard_names(split)
    ]


def by_attempt(amount):
    """A resource that grows with each attempt."""
    return lambda wildcards, attempt: amount * attempt


def by_attempt_and_size(amount, times):
    """Megabytes: a base, and so many times the input's size; more with each attempt."""
    return lambda wildcards, input, attempt: attempt * int(
        amount + times * input.size_mb
    )


def earlier_manifest():
    """The manifest of the data set that vectors are taken from, if any."""
    folder = config["reuse"]["dataset"]
    return f"{folder}/_manifest.json" if folder else []


def by_attempt_and_records(amount, each):
    """Megabytes: a base, and so many bytes for each record read, and row of an earlier data set; more by attempt."""

    def megabytes(wildcards, input, attempt):
        # Where it is not there yet, Snakemake wants the FileNotFoundError, and asks again.
        records = json.loads(Path(input.filter).read_text())["read"]
        if "earlier" in input.keys():
            records += json.loads(Path(input.earlier).read_text()).get("rows", 0)
        return attempt * int(amount + each * records / 1e6)

    return megabytes


def run_benchmarks(wildcards):
    """Benchmark files of this run's rules and shards: of others there may be some from earlier runs."""
    found = {}
    idle = {
        "make_demo": not is_kind("demo"),
        "download": is_kind("url") or is_kind("fasta"),
        "download_url": not is_kind("url"),
    }
    for each in workflow.rules:
        if each.benchmark is None or idle.get(each.name):
            continue
        path = strip_wildcard_constraints(str(each.benchmark))
        if "{split}" in path:
            found[each.name] = all_shards(path.replace("{model}", MODEL))
        else:
            found[each.name] = [path.replace("{database}", database())]
    return found


def reuse_files():
    """What the reuse stage writes, where there is one."""
    files = ["results/reused.parquet", "results/summaries/reuse.json"]
    return files if config["reuse"]["dataset"] else []


def model_file(name):
    """A file of the model directory."""
    return f"{config['model']['directory']}/{name}"


def untrained_model():
    """What the model is made like: sizes that are null are the registered model's own."""
    sizes = dict(config["model"]["untrained"])
    like, seed = sizes.pop("like"), sizes.pop("seed")
    chosen = {name: size for name, size in sizes.items() if size is not None}
    return {"like": like, "sizes": chosen, "seed": seed}


def get_weights():
    """The model directory's weight files."""
    if config["model"]["untrained"]:
        return model_file("model.safetensors")
    return [str(path) for path in weight_files(config["model"]["directory"])]


def get_vocabulary():
    """The model directory's vocabulary."""
    return list(map(str, vocabulary_files(config["model"]["directory"])))


def families():
    """The truth about the demo's families, for the analysis."""
    return FAMILIES if is_kind("demo") else []
