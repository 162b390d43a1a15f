"""Where each stage's files are, and which of them this configuration asks for."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from embedome.common.terms import SPLITS
from embedome.evaluation.data_files import split_and_path
from embedome.evaluation.own_task import name_results
from embedome.models.checkpoint import weight_files
from embedome.models.hugging_face_tokenizer import vocabulary_files
from embedome.sequences.input_files import list_files
from embedome.workflow.config import drops_leaks, release_name

# Which family each of the demo's sequences is of.
FAMILIES = "resources/demo/mirror/families.tsv.gz"
# Of the section source.
READING = ("id", "skip_empty", "nucleotides", "missing_structure")
# Of all models and runs: one table compares them.
EVALUATION = "results/evaluation"


@dataclass(frozen=True)
class Paths:
    """The files of a run, relative to its folder; an empty list stands for files that the run does not have.

    Parameters
    ----------
    config : mapping
        The checked configuration.
    place : callable
        Returns where a path of the workflow's is: below the prefix, where a caller uses it as a module with one.
    given : callable
        Marks a path of the user's, which has no prefix.
    """

    config: Mapping[str, Any]
    place: Callable[[str], str] = str
    given: Callable[[str], str] = str

    @property
    def model(self) -> str:
        """Name of the model's folders under results/."""
        return self.config["model"]["name"]

    def is_kind(self, kind: str) -> bool:
        """Return whether sequences come from a demo release, a downloaded one, an address, or files of the user's."""
        return self.config["source"]["kind"] == kind

    # What is downloaded

    @property
    def database(self) -> str:
        """Name of the database; the demo is always a UniRef50."""
        return "uniref50" if self.is_kind("demo") else self.config["source"]["database"]

    @property
    def old_release(self) -> str | None:
        """The release to take out of an archive, if one is."""
        return release_name(self.config["source"]["release"]) if self.is_kind("release") else None

    @property
    def file_format(self) -> str:
        """Format of the release's file; UniProt's archives hold XML alone."""
        chosen = self.config["source"]["format"] if self.is_kind("release") else "fasta"
        return chosen or ("xml" if self.old_release else "fasta")

    @property
    def release_folder(self) -> str:
        """Folder of the downloaded release; no other must be taken for it, be it the demo or an older one."""
        if self.is_kind("demo"):
            return "resources/demo"
        release = f"-{self.old_release}" if self.old_release else ""
        return f"resources/release{release}{'-xml' if self.file_format == 'xml' else ''}"

    def downloaded(self, name: str) -> str:
        """Return a file of what was downloaded."""
        folder = "resources/url" if self.is_kind("url") else self.release_folder
        return f"{folder}/{self.database}/{name}"

    @property
    def sequence_files(self) -> list[str]:
        """The sequence files to filter."""
        if self.is_kind("fasta"):
            return [self.given(str(path)) for path in list_files(self.config["source"]["fasta"])]
        if self.is_kind("url"):
            return [self.downloaded("sequences")]
        return [self.downloaded(f"{self.database}.{self.file_format}.gz")]

    @property
    def reading(self) -> dict[str, Any]:
        """How the sequence files are read."""
        return {key: self.config["source"][key] for key in READING}

    @property
    def release(self) -> str | list[str]:
        """The release.json of a downloaded file, if it was downloaded."""
        return [] if self.is_kind("fasta") else self.downloaded("release.json")

    @property
    def families(self) -> str | list[str]:
        """The truth about the demo's families, for the analysis."""
        return FAMILIES if self.is_kind("demo") else []

    # Splits and shards

    @property
    def is_redundancy_filter(self) -> bool:
        """Whether only the representatives of clusters are kept."""
        return self.config["cluster"]["as"] == "filter"

    @property
    def later_rejects(self) -> list[str]:
        """Lists of records that stages after the filter reject: shards are of what is left."""
        lists = {
            "results/rejects_redundant.parquet": self.is_redundancy_filter,
            "results/rejects_leak.parquet": drops_leaks(self.config),
        }
        return [path for path, wanted in lists.items() if wanted]

    def drawn(self, name: str) -> str:
        """Return a file of the split stage: the final one, or one of its own where leaks are dropped afterwards."""
        return f"results/drawn/{name}" if drops_leaks(self.config) else f"results/{name}"

    @property
    def leakage(self) -> str | list[str]:
        """What leaks from val and test into train, if the configuration measures it."""
        return "results/summaries/leakage.json" if self.config["leakage"]["measure"] else []

    def all_shards(self, pattern: str) -> list[str]:
        """Return a path for every shard of every split; the pattern has the fields split and shard.

        The number of shards is configured, so that the graph of jobs is known from the start.
        """
        shards = self.config["shard"]
        return [pattern.format(split=split, shard=f"{i:05d}") for split in SPLITS for i in range(shards[split])]

    # The model

    def model_file(self, name: str) -> str:
        """Return a file of the model directory."""
        path = f"{self.config['model']['directory']}/{name}"
        return path if self.is_model_made or self.config["model"]["hub"] else self.given(path)

    @property
    def is_model_made(self) -> bool:
        """Whether the run makes the model directory itself."""
        return bool(self.config["model"]["untrained"] or self.config["model"]["pretrain"])

    @property
    def model_directory(self) -> str:
        """Where the model directory is."""
        directory = self.config["model"]["directory"]
        return self.place(directory) if self.is_model_made or self.config["model"]["hub"] else directory

    @property
    def hub_model(self) -> dict[str, Any]:
        """What is fetched from the Hugging Face Hub, where the model is."""
        return {"name": self.config["model"]["hub"]["id"], "revision": self.config["model"]["hub"]["revision"]}

    @property
    def training(self) -> str | list[str]:
        """What came of training, where the model is trained."""
        return f"{self.pretraining}/summary.json" if self.pretraining else []

    @property
    def pretraining(self) -> str | None:
        """The folder of the run that trains the model, where it is trained."""
        return f"results/pretraining/{self.model}" if self.config["model"]["pretrain"] else None

    @property
    def weights(self) -> list[str]:
        """The model directory's weight files; of one that is fetched config.json stands for them."""
        if self.config["model"]["hub"]:
            return []
        if self.is_model_made:
            return [self.model_file("model.safetensors")]
        return [self.given(str(path)) for path in weight_files(self.config["model"]["directory"])]

    @property
    def vocabulary(self) -> list[str]:
        """The files of the model directory that have a say in its vocabulary; of one that is fetched config.json."""
        if self.config["model"]["hub"]:
            return []
        if self.is_model_made:
            # The same list before the directory is made and after.
            return [self.model_file("tokenizer.json")]
        return [self.given(str(path)) for path in vocabulary_files(self.config["model"]["directory"])]

    @property
    def untrained_model(self) -> dict[str, Any]:
        """What the model is made like: sizes that are null are the registered model's own."""
        sizes = dict(self.config["model"]["untrained"])
        like, seed = sizes.pop("like"), sizes.pop("seed")
        chosen = {name: size for name, size in sizes.items() if size is not None}
        return {"like": like, "sizes": chosen, "seed": seed}

    # The data set, and what is made of it

    @property
    def reuse_files(self) -> list[str]:
        """What the reuse stage writes, where there is one."""
        files = ["results/reused.parquet", "results/summaries/reuse.json"]
        return files if self.config["reuse"]["dataset"] else []

    @property
    def earlier_manifest(self) -> str | list[str]:
        """The manifest of the data set that vectors are taken from, if any."""
        folder = self.config["reuse"]["dataset"]
        return self.given(f"{folder}/_manifest.json") if folder else []

    def named(self, path: str | None) -> str | list[str]:
        """Return a file that the configuration names: of the user, or made by the workflow; an empty list for none."""
        if path is None:
            return []
        return path if path == FAMILIES else self.given(path)

    @property
    def annotation(self) -> list[str]:
        """The annotation's summary, where a table of labels is given."""
        return [f"results/annotation/{self.model}/_summary.json"] if self.config["annotate"]["labels"] else []

    @property
    def annotated_parts(self) -> list[str]:
        """The annotation's files, a label of each sequence in every row, where a table of labels is given."""
        pattern = f"results/annotation/{self.model}/split={{split}}/part-{{shard}}.parquet"
        return self.all_shards(pattern) if self.annotation else []

    @property
    def sequences_to_compare(self) -> str | list[str]:
        """The catalog, where annotated proteins above some identity are left out."""
        return "results/catalog" if self.config["annotate"]["max_identity"] is not None else []

    @property
    def evaluated(self) -> dict[str, dict[str, Any]]:
        """The tasks to evaluate, with their files, by the names of their results."""
        named = ((name_results(task["name"], task["data"]), task) for task in self.config["evaluate"]["tasks"])
        return {name: task for name, task in named if name}

    @property
    def evaluations(self) -> list[str]:
        """What each task's job writes."""
        return [f"{EVALUATION}/{self.model}/{name}.json" for name in self.evaluated]

    @property
    def evaluation_table(self) -> str | list[str]:
        """The table of all evaluations, of which the report tells, where there are any."""
        return f"{EVALUATION}/table.parquet" if self.evaluated else []

    def evaluation_files(self, name: str) -> list[str]:
        """Return the files and folders that a task is read from."""
        return [self.given(str(split_and_path(path)[1])) for path in self.evaluated[name]["data"]]

    @property
    def finetuned(self) -> list[str]:
        """What fine-tuning writes last, where a task is given."""
        task = self.config["finetune"]["task"]
        name = task and name_results(task, self.config["finetune"]["data"])
        return [f"results/finetune/{self.model}/{name}/result.json"] if name else []

    @property
    def finetune_files(self) -> list[str]:
        """The files and folders that the task of fine-tuning is read from."""
        return [self.given(str(split_and_path(path)[1])) for path in self.config["finetune"]["data"]]

    @property
    def targets(self) -> list[str]:
        """What `rule all` asks for."""
        return [
            f"results/dataset/{self.model}/_manifest.json",
            "results/ledger.json",
            f"results/overview/{self.model}.html",
            *self.annotation,
            *self.finetuned,
        ]

    def benchmarks(self, patterns: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
        """Return the benchmark files of this run's rules and shards: of others there may be some from earlier runs.

        Parameters
        ----------
        patterns : iterable of (str, str)
            Each rule with its benchmark file, wildcards in braces.
        """
        idle = {
            "make_demo": not self.is_kind("demo"),
            "download": self.is_kind("url") or self.is_kind("fasta"),
            "download_url": not self.is_kind("url"),
        }
        found = {}
        for rule, pattern in patterns:
            if idle.get(rule):
                continue
            path = pattern.replace("{model}", self.model)
            if "{split}" in path:
                found[rule] = self.all_shards(path)
            elif "{task}" in path:
                found[rule] = [path.replace("{task}", name) for name in self.evaluated]
            else:
                found[rule] = [path.replace("{database}", self.database)]
        return found
