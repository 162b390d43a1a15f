"""A model, a task and its files in; an adapter, its head, a merged model directory and scores out."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from embedome.common.atomic_files import atomic_directory
from embedome.common.errors import UserError
from embedome.common.json_files import read_json, write_json
from embedome.common.locks import try_lock
from embedome.common.outputs import check_outside, is_empty_folder
from embedome.engine.device import use_device
from embedome.evaluation.evaluate import Evaluation, open_evaluation, remarks, tuned_task
from embedome.evaluation.head_recipes import CONVBERT, RECIPES, check_head
from embedome.evaluation.runs import do_run
from embedome.evaluation.settings import EvaluateSettings
from embedome.evaluation.tuned import TunedFit, TuneSettings
from embedome.evaluation.tuned_runs import TunedTask, kept_file, trainable_heads
from embedome.models.adapters import AdapterSettings, write_adapter
from embedome.models.merge_adapter import merge_adapter

log = logging.getLogger(__name__)

# In the folder of a run: what it is, what it makes, and its scores, which are written last.
MARK, ADAPTER, MODEL, RESULT, LOCK = "run.json", "adapter", "model", "result.json", ".lock"
# Beside the adapter: what makes predictions of the adapted model's vectors.
HEAD, LABELS = "head.safetensors", "head.json"


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """What a model is fine-tuned with.

    Parameters
    ----------
    head : str or None
        Of `head_recipes.RECIPES`; None: the task's, or Ankh's where that one is solved by scikit-learn.
    tune : TuneSettings
    evaluate : EvaluateSettings
        How the task is read: train proteins, long proteins, device, threads.
    seed : int
        Of adapters, head, order and dropout.
    """

    head: str | None = None
    tune: TuneSettings = field(default_factory=TuneSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    seed: int = 0

    @classmethod
    def from_config(
        cls, finetune: Mapping[str, Any], embed: Mapping[str, Any], *, device: str = "cpu", threads: int = 1
    ) -> "FinetuneSettings":
        """Take the settings from the configuration's sections ``finetune`` and, of long sequences, ``embed``."""
        adapter = AdapterSettings(finetune["rank"], finetune["alpha"], finetune["dropout"])
        others = {name: finetune[name] for name in ("rate", "epochs", "batch")}
        return cls(
            head=finetune["head"],
            tune=TuneSettings(adapter, tuple(finetune["targets"]), **others),
            evaluate=EvaluateSettings(
                long_sequences=embed["long_sequences"],
                max_residues=embed["max_residues"],
                device=device,
                threads=threads,
            ),
            seed=finetune["seed"],
        )


def finetune(
    model: str | os.PathLike,
    task: str,
    data: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    settings: FinetuneSettings,
) -> dict[str, Any]:
    """Train adapters (LoRA) of a model and a head on a task; a run that was killed goes on after its last epoch.

    Written are in `out`: ``adapter``, in peft's form, with the head's weights and labels beside; ``model``, a model
    directory with the adapter merged in float32; ``result.json`` and the predictions for test proteins.

    Parameters
    ----------
    model : path
        Model directory.
    task : str
        Of `tasks.TASKS`, or ``own``.
    data : sequence of paths
        As of `evaluate.evaluate`.
    out : path
        Folder of the run.
    settings : FinetuneSettings

    Returns
    -------
    dict
        What ``result.json`` says.

    Raises
    ------
    UserError
        As `evaluate.evaluate` and `tuned.TunedFit`; where `out` is of another run, or not embedome's.
    """
    out = Path(out)
    check_outside(out)
    evaluation = open_evaluation(task, data, out, Path(model), settings.evaluate, out.name)
    head = choose_head(evaluation, settings.head)
    tuned = tuned_task(evaluation, settings.tune)
    identity = {**tuned.identity(head), "seed": settings.seed}
    with hold_run(out, identity):
        if (out / RESULT).is_file():
            log.info("%s: done already", out)
            return read_json(out / RESULT)
        use_device(settings.evaluate.device)
        for line in remarks(evaluation):
            log.warning("%s: %s", evaluation.task.name, line)
        log.info("%s: %s (a guess)", evaluation.task.name, tuned.cost(1))
        return train(tuned, evaluation, head, settings, out, identity)


def choose_head(evaluation: Evaluation, head: str | None) -> str:
    """Return the head that is trained; raises as `finetune`."""
    task = evaluation.task
    if head is None:
        return task.head if task.head in RECIPES else CONVBERT
    check_head(head, task.level, task.kind)
    return trainable_heads([head])[0]


@contextmanager
def hold_run(out: Path, identity: dict[str, Any]) -> Iterator[None]:
    """Make the folder of a run, or find that of the same one, and hold it.

    Raises
    ------
    UserError
        Where it is of another run, not embedome's, or another process works on it.
    """
    path = out / MARK
    if not path.is_file() and out.exists() and not is_empty_folder(out):
        raise UserError(f"{out}: is there already; name a folder that is not there")
    out.mkdir(parents=True, exist_ok=True)
    with try_lock(out / LOCK) as is_held:
        if not is_held:
            raise UserError(f"{out}: another process works on it; wait for it, or name another folder")
        if not path.is_file():
            write_json(path, identity)
        elif (found := read_json(path)) != identity:
            differing = ", ".join(key for key in identity if found.get(key) != identity[key])
            raise UserError(f"{out}: is of a run with another {differing}; name another folder, or remove it")
        yield


def train(
    tuned: TunedTask, evaluation: Evaluation, head: str, settings: FinetuneSettings, out: Path, identity: dict[str, Any]
) -> dict[str, Any]:
    """Train, and write all that a run writes; what a killed one has written already stays."""
    kept = kept_file(out, identity, settings.seed)
    fit = tuned.fit(head, settings.seed, kept)
    scores = do_run(out, tuned.run(head, settings.seed), identity, fit, tuned.task.metric)
    about = {
        "task": tuned.task.name,
        "data": sorted(tuned.digests.values()),
        "proteins": scores["proteins"],
        "head": head,
        "seed": settings.seed,
        "tune": asdict(settings.tune),
    }
    if not (out / ADAPTER).is_dir():
        with atomic_directory(out / ADAPTER) as temporary:
            write_adapter(temporary, fit.matrices(), settings.tune.adapter, tuned.model)
            write_head(temporary, fit, tuned)
    if not (out / MODEL).is_dir():
        merge_adapter(tuned.model, out / ADAPTER, out / MODEL, about)
    result = {
        **about,
        "metric": tuned.task.metric,
        "epochs": scores["epochs"],
        "val": scores["val"],
        "test": scores["test"],
        "notes": list(remarks(evaluation)),
    }
    write_json(out / RESULT, result)
    kept.unlink(missing_ok=True)
    return read_json(out / RESULT)


def write_head(folder: Path, fit: TunedFit, tuned: TunedTask) -> None:
    """Write the head's weights, and what its outputs are."""
    from safetensors.torch import save_file

    labelling = fit.data.examples.labelling
    save_file({name: tensor.cpu().contiguous() for name, tensor in fit.head.state_dict().items()}, folder / HEAD)
    about = {
        "head": asdict(fit.recipe),
        "task": tuned.task.name,
        "level": labelling.level,
        "kind": labelling.kind,
        "labels": list(labelling.classes),
        "features": fit.data.features.level,
        "dimension": fit.data.features.dimension,
        "long": asdict(tuned.settings.policy),
    }
    write_json(folder / LABELS, about)
