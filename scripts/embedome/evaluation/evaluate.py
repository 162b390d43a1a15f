"""A model, a task and its files in, scores beside those of baselines out."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from embedome.common.disk_space import check_room
from embedome.common.errors import UserError, load_optional
from embedome.common.json_files import json_sha256, write_json
from embedome.engine.device import use_device
from embedome.evaluation.baselines import random_model, sequence_features
from embedome.evaluation.cost import Cost, embedding_cost, feature_bytes, head_seconds
from embedome.evaluation.data_files import digests, open_sources
from embedome.evaluation.examples import ExampleSet
from embedome.evaluation.features import Features, Maker, ModelFeatures, layers_at_once, make_features
from embedome.evaluation.head_data import HeadData
from embedome.evaluation.head_recipes import RECIPES, features_of
from embedome.evaluation.likeness import find_likeness
from embedome.evaluation.own_task import OWN, read_own_task
from embedome.evaluation.readers import read_task
from embedome.evaluation.results import RESULT_FORMAT, best_layers, count_difference, summarise, write_table
from embedome.evaluation.runs import Run, do_run, find_run, is_seeded, make_fit, task_identity
from embedome.evaluation.settings import FROZEN, LORA, OF_MODEL, RANDOM, EvaluateSettings
from embedome.evaluation.tasks import RESIDUE, TEST, Task, find_task
from embedome.evaluation.tuned import TuneSettings
from embedome.evaluation.tuned_runs import TunedTask, trainable_heads, tuned_results
from embedome.models.directory import Model, empty_model, model_identity

log = logging.getLogger(__name__)

# Of the folder of results: what was computed on the way, and may be removed.
FEATURES, RANDOM_MODELS, LIKENESS = Path("cache/features"), Path("cache/random"), Path("cache/likeness")
WITHOUT_MODEL = "no-model"
# The model in the folder of a run of `embedome pretrain` or `embedome finetune`.
OF_RUN = "model"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A task that is read, and what is evaluated on it.

    Parameters
    ----------
    task : Task
    examples : ExampleSet
    digests : dict of str to str
        SHA-256 of the files that were read.
    model : Path or None
    out : Path
    settings : EvaluateSettings
    model_name : str
        Of the folder of its results.
    pretraining : Path or None
        Folder of the run that pretrained it; None: where `embedome pretrain` has it.
    """

    task: Task
    examples: ExampleSet
    digests: dict[str, str]
    model: Path | None
    out: Path
    settings: EvaluateSettings
    model_name: str
    pretraining: Path | None = None

    @property
    def folder(self) -> Path:
        """Where its results are."""
        return self.out / self.model_name / self.task.name

    def shape(self) -> Model | None:
        """Return the model without weights."""
        return empty_model(self.model) if self.model else None

    def layers(self, method: str) -> tuple[int | None, ...]:
        """Return the layers of a method, from 0, the embedding's; None where there is no model.

        Raises
        ------
        UserError
            Where the model has no such layer.
        """
        model = self.shape()
        if model is None or method not in OF_MODEL:
            return (None,)
        count = model.encoder.n_layers
        for layer in self.settings.layers:
            if not -count - 1 <= layer <= count:
                raise UserError(f"--layer is {layer}; expected 0 (the embedding) to {count} (the last, -1 for short)")
        return tuple(dict.fromkeys(layer % (count + 1) for layer in self.settings.layers or range(count + 1)))

    def maker(self, method: str, level: str, with_weights: bool = True) -> Maker:
        """Return what computes a method's features, of all its layers in their order."""
        shape, settings = self.shape(), self.settings
        layers = tuple(layer for layer in self.layers(method) if layer is not None)
        if not layers:
            longest = settings.policy.longest(shape.max_residues if shape else None)
            return sequence_features(method, level, settings.policy, longest, self.examples.sequences)
        assert self.model, "layers are a model's"
        assert shape, "layers are a model's"
        directory = self.model
        if method == RANDOM and with_weights:
            directory = random_model(self.model, self.out / RANDOM_MODELS)
        identity = {"model": model_identity(directory)} if with_weights else {}
        own = {"dtype": settings.dtype, "device": settings.device, "policy": asdict(settings.policy)}
        return ModelFeatures(
            str(directory),
            level,
            layers,
            settings.dtype,
            settings.device,
            settings.policy,
            identity | own,
            shape.encoder.dimension,
        )

    def likeness(self, method: str) -> dict[str, Any] | None:
        """Search the test proteins in what the model was pretrained on, where embedome did that."""
        if method not in (FROZEN, LORA) or self.model is None:
            return None
        test = [self.examples.sequences[each] for each in self.examples.of_split(TEST)]
        run = self.pretraining or self.model.resolve().parent
        return find_likeness(model_identity(self.model), run, test, self.out / LIKENESS, self.settings.threads)

    def runs(self, method: str, head: str, layer: int | None) -> list[Run]:
        """Return the runs of a head on a layer, one for each seed."""
        count = self.settings.seeds if is_seeded(head, self.examples.labelling) else 1
        return [Run(method, head, layer, seed) for seed in range(count)]

    def identity(self, features: Features, head: str) -> dict[str, Any]:
        """Return what a run's result depends on, beside the seed."""
        recipe = asdict(RECIPES[head]) if head in RECIPES else {}
        others = task_identity(self.task, self.examples, self.digests, self.settings.threads, self.settings.device)
        return {"features": features.sha256, "recipe": json_sha256(recipe), **others}


def evaluate(
    task: str,
    data: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    model: str | os.PathLike | None = None,
    settings: EvaluateSettings,
) -> dict[str, Any]:
    """Train heads on a task, score them, and write results; what is there of the same is not computed again.

    Written are ``<out>/<model>/<task>/<method>.json``, below a folder of the method's name the scores and predictions
    of each head, and for all results of the folder ``table.tsv`` and ``table.parquet``.

    Parameters
    ----------
    task : str
        Of `tasks.TASKS`, or ``own``.
    data : sequence of paths
        Its files: folders, zip archives, files; ``val=FILE`` for one split.
    out : path
        Folder of results.
    model : path, optional
        Model directory; without it there are only baselines.
    settings : EvaluateSettings

    Returns
    -------
    dict
        By method the path of its JSON file and the mean of the task's metric by head and layer.

    Raises
    ------
    UserError
        As `readers.read_task`, `own_task.read_own_task` and `engine.Engine`; where a method, head or layer cannot be
        had, or the disk has too little room.
    """
    directory = Path(model) if model else None
    name = name_model(directory) if directory else WITHOUT_MODEL
    found = evaluate_methods(open_evaluation(task, data, Path(out), directory, settings, name))
    write_table(out)
    return found


def name_model(directory: Path) -> str:
    """Return the name of a model's results: that of its folder, or of the run that made it."""
    folder = directory.resolve()
    return folder.parent.name if folder.name == OF_RUN else folder.name


def evaluate_for_run(
    task: str,
    data: Sequence[str | os.PathLike],
    model: str | os.PathLike,
    summary: str | os.PathLike,
    *,
    settings: EvaluateSettings,
    pretraining: str | os.PathLike | None = None,
) -> None:
    """Rule evaluate: as `evaluate`, of the methods and heads that suit the task; the table is a rule of its own.

    Parameters
    ----------
    task : str
    data : sequence of paths
    model : path
        Model directory.
    summary : path
        ``<out>/<model>/<task>.json``, what `evaluate` returns.
    settings : EvaluateSettings
    pretraining : path, optional
        Folder of the run that pretrained the model.

    Raises
    ------
    UserError
        As `evaluate` and `EvaluateSettings.fitting`.
    """
    folder = Path(summary).parent
    evaluation = open_evaluation(task, data, folder.parent, Path(model), settings, folder.name)
    run = Path(pretraining) if pretraining else None
    suited = replace(evaluation, settings=settings.fitting(evaluation.task), pretraining=run)
    write_json(summary, evaluate_methods(suited))


def evaluate_methods(evaluation: Evaluation) -> dict[str, Any]:
    """Evaluate all methods of a task, once it is said what that will take; return as `evaluate`."""
    settings = evaluation.settings
    methods = settings.methods_for(evaluation.task, evaluation.model is not None)
    heads = settings.heads_for(evaluation.task)
    # Of several GPUs one that no other job has, for heads too.
    use_device(settings.device)
    announce(evaluation, methods, heads)
    return {method: evaluate_method(evaluation, method, heads) for method in methods}


def open_evaluation(
    name: str,
    data: Sequence[str | os.PathLike],
    out: Path,
    model: Path | None,
    settings: EvaluateSettings,
    model_name: str,
) -> Evaluation:
    """Read a task."""
    load_optional("sklearn", "scikit-learn")
    if name == OWN:
        task, examples, files = read_own_task(data)
    else:
        task = find_task(name)
        examples, files = read_task(task, open_sources(data))
    examples = examples.with_few(settings.train_proteins)
    return Evaluation(task, examples, digests(files), model, out, settings, model_name)


def announce(evaluation: Evaluation, methods: Sequence[str], heads: Sequence[str]) -> None:
    """Say what is read, how it differs from what was published, and what it will take, before anything runs.

    Raises
    ------
    UserError
        Where the disk has too little room for the features.
    """
    task, examples = evaluation.task, evaluation.examples
    found = ", ".join(f"{split} {count:,}" for split, count in examples.found.items())
    log.info("%s: %s; licence: %s", task.name, found, task.licence)
    for line in remarks(evaluation):
        log.warning("%s: %s", task.name, line)
    total = Cost()
    for method in methods:
        cost = method_cost(evaluation, method, heads)
        log.info("%s: %s", method, cost)
        total += cost
    log.info("in all: %s (guesses; what is there already is not computed again)", total)
    check_room(evaluation.out / FEATURES, total.bytes)


def method_cost(evaluation: Evaluation, method: str, heads: Sequence[str]) -> Cost:
    """Return what a method takes: features of each level that heads need, of all layers in a pass, and trainings."""
    examples, settings, cost = evaluation.examples, evaluation.settings, Cost()
    if method == LORA:
        return tuned_task(evaluation).cost(settings.seeds * len(trainable_heads(heads)))
    levels = {features_of(head, evaluation.task.level) for head in heads}
    makers = {level: evaluation.maker(method, level, with_weights=False) for level in sorted(levels)}
    layers, shape = evaluation.layers(method), evaluation.shape()
    for level, maker in makers.items():
        rows = int(examples.lengths.sum()) if level == RESIDUE else len(examples)
        seconds = 0.0
        if method in OF_MODEL and shape:
            passes = -(-len(layers) // layers_at_once(maker))
            seconds = passes * embedding_cost(shape, settings.policy, examples.sequences, settings.device)
        cost += Cost(seconds, len(layers) * feature_bytes(rows, maker.dimension))
    for head in heads:
        dimension = makers[features_of(head, evaluation.task.level)].dimension
        runs = sum(len(evaluation.runs(method, head, layer)) for layer in layers)
        cost += Cost(runs * head_seconds(head, examples, dimension, settings.device))
    return cost


def remarks(evaluation: Evaluation) -> Iterator[str]:
    """Yield what a reader of the results has to know."""
    task, examples = evaluation.task, evaluation.examples
    if difference := count_difference(task, examples.found):
        yield f"other numbers of proteins than published: {difference}"
    yield from (f"{count:,} proteins left out {reason}" for reason, count in examples.left_out.items())
    yield from examples.notes
    if task.note:
        yield task.note


def evaluate_method(evaluation: Evaluation, method: str, heads: Sequence[str]) -> dict[str, Any]:
    """Evaluate a method, and write its JSON file."""
    if method == LORA:
        results = tuned_results(tuned_task(evaluation), heads, evaluation.folder / method)
    else:
        results = frozen_results(evaluation, method, heads)
    path = evaluation.folder / f"{method}.json"
    write_json(path, result_of(evaluation, method, results))
    metric = evaluation.task.metric
    return {
        "file": str(path),
        metric: {
            each["head"] + ("" if each["layer"] is None else f", layer {each['layer']}"): each["scores"][metric]["mean"]
            for each in results
        },
    }


def tuned_task(evaluation: Evaluation, tune: TuneSettings | None = None) -> TunedTask:
    """Return a task on which the model is trained; without settings as protbench has them."""
    assert evaluation.model, "a method of a model's"
    task, settings = evaluation.task, evaluation.settings
    return TunedTask(evaluation.model, task, evaluation.examples, evaluation.digests, settings, tune or TuneSettings())


def frozen_results(evaluation: Evaluation, method: str, heads: Sequence[str]) -> list[dict[str, Any]]:
    """Train heads on features that stay as they are; return as `results.summarise`."""
    folder, examples = evaluation.folder / method, evaluation.examples
    levels = {features_of(head, evaluation.task.level) for head in heads}
    features = {
        level: make_features(evaluation.maker(method, level), examples.sequences, evaluation.out / FEATURES)
        for level in sorted(levels)
    }
    # After the engine, which has one thread on a CPU: heads depend on it.
    torch.set_num_threads(evaluation.settings.threads)
    results = []
    for place, layer in enumerate(evaluation.layers(method)):
        opened = {level: HeadData(found[place], examples) for level, found in features.items()}
        for head in heads:
            data = opened[features_of(head, evaluation.task.level)]
            identity, runs = evaluation.identity(data.features, head), {}
            for run in evaluation.runs(method, head, layer):
                runs[run.name] = find_run(folder, run, identity) or do_run(
                    folder, run, identity, make_fit(run, data, evaluation.settings.device), evaluation.task.metric
                )
            results.append(summarise(data, folder, head, layer, runs))
    return results


def result_of(evaluation: Evaluation, method: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a method's result as its file has it."""
    task, examples, settings = evaluation.task, evaluation.examples, evaluation.settings
    about = {key: value for key, value in asdict(task).items() if key not in ("wild_type", "published")}
    labelling = examples.labelling
    return {
        "format": RESULT_FORMAT,
        "model_name": evaluation.model_name,
        "model": model_identity(evaluation.model) if evaluation.model and method in OF_MODEL else None,
        "method": method,
        "task": {**about, "classes": list(labelling.classes)},
        "data": {
            "files": evaluation.digests,
            "as_measured": bool(task.sha256) and set(evaluation.digests.values()) <= set(task.sha256),
            "proteins": examples.found,
            "expected": list(task.counts) or None,
            "difference": count_difference(task, examples.found),
            "left_out": examples.left_out,
            "notes": list(remarks(evaluation)),
        },
        "likeness": evaluation.likeness(method),
        "settings": asdict(replace(settings, methods=(), heads=(), layers=())),
        "results": results,
        "best_layers": best_layers(task, results),
        "published": [asdict(each) for each in task.published],
    }
