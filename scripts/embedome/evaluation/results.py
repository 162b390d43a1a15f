"""What an evaluation says: a JSON file per model, task and method, and one table of all that a folder holds."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedome.common.atomic_files import atomic_path
from embedome.common.json_files import read_json, round_digits
from embedome.evaluation.head_data import HeadData
from embedome.evaluation.likeness import relatives
from embedome.evaluation.metrics import better, interval, mean_and_spread, resample
from embedome.evaluation.runs import IDENTITY, counted, read_predictions
from embedome.evaluation.tasks import SPLITS, TEST, Task

RESULT_FORMAT = 1
PUBLISHED = "published"
TABLE = "table"
COLUMNS = {
    "model": pa.string(),
    "task": pa.string(),
    "method": pa.string(),
    "head": pa.string(),
    "layer": pa.int32(),
    "metric": pa.string(),
    "main": pa.bool_(),
    "value": pa.float64(),
    "spread": pa.float64(),
    "low": pa.float64(),
    "high": pa.float64(),
    "val": pa.float64(),
    "seeds": pa.int32(),
    "best_layer": pa.bool_(),
    "train": pa.int32(),
    "test": pa.int32(),
    "like_pretraining": pa.float64(),
    "counts": pa.string(),
    "source": pa.string(),
}


def count_difference(task: Task, found: Mapping[str, int]) -> str | None:
    """Say where the files have other numbers of proteins than were published; None where they agree, or none were."""
    if not task.counts:
        return None
    pairs = [(split, found[split], count) for split, count in zip(SPLITS, task.counts, strict=True)]
    parts = [f"{split} {here:,} of {there:,}" for split, here, there in pairs if here != there]
    return f"{', '.join(parts)} ({task.counts_by})" if parts else None


def summarise(
    data: HeadData, folder: Path, head: str, layer: int | None, runs: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Join the runs of a head on a layer: means and spreads over seeds, intervals over test proteins.

    Parameters
    ----------
    data : HeadData
    folder : Path
        Of the runs' files.
    head : str
    layer : int or None
    runs : mapping of str to dict
        Scores by the name of a run, one for each seed.
    """
    test, labelling = data.of_split(TEST), data.examples.labelling
    drawn: dict[str, list[np.ndarray]] = {}
    for name in runs:
        predicted = read_predictions(folder / f"{name}.parquet", labelling)
        for metric, values in resample(labelling, *counted(data, test, predicted)).items():
            drawn.setdefault(metric, []).append(values)
    scores: dict[str, Any] = {}
    for metric, of_runs in drawn.items():
        mean, spread = mean_and_spread([run["test"][metric] for run in runs.values()])
        low, high = interval(np.mean(of_runs, axis=0))
        scores[metric] = {
            "mean": round_digits(mean),
            "spread": round_digits(spread),
            "interval": [round_digits(low), round_digits(high)],
            "val": round_digits(mean_and_spread([run["val"][metric] for run in runs.values()])[0]),
        }
    seeds = [{key: value for key, value in run.items() if key not in (IDENTITY, "proteins")} for run in runs.values()]
    return {
        "head": head,
        "layer": layer,
        "dimension": data.features.dimension,
        "proteins": next(iter(runs.values()))["proteins"],
        "scores": scores,
        "runs": seeds,
    }


def best_layers(task: Task, results: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return of each head the layer that is best on validation."""
    found: dict[str, int] = {}
    for head in dict.fromkeys(each["head"] for each in results):
        mine = [each for each in results if each["head"] == head and each["layer"] is not None]
        if mine:
            best = max(mine, key=lambda each: better(task.metric, each["scores"][task.metric]["val"]))
            found[head] = best["layer"]
    return found


def write_table(out: str | os.PathLike) -> pa.Table:
    """Write table.tsv and table.parquet of all results below a folder; return the table."""
    rows = [row for path in sorted(Path(out).glob("*/*/*.json")) for row in rows_of(read_json(path))]
    table = pa.table({name: [row.get(name) for row in rows] for name in COLUMNS}, pa.schema(COLUMNS))
    unique = table.group_by(table.column_names, use_threads=False).aggregate([])
    with atomic_path(Path(out) / f"{TABLE}.parquet") as temporary:
        pq.write_table(unique, temporary, compression="zstd")
    with atomic_path(Path(out) / f"{TABLE}.tsv") as temporary:
        lines = ["\t".join(COLUMNS), *("\t".join(map(cell, row.values())) for row in unique.to_pylist())]
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return unique


def cell(value: object) -> str:
    """Return a value as the table's text has it."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def rows_of(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a result: one for each head, layer and metric, and those published."""
    task, metric = found["task"]["name"], found["task"]["metric"]
    for each in found["results"]:
        for name, scores in each["scores"].items():
            yield {
                "model": found["model_name"],
                "task": task,
                "method": found["method"],
                "head": each["head"],
                "layer": each["layer"],
                "metric": name,
                "main": name == metric,
                "value": scores["mean"],
                "spread": scores["spread"],
                "low": scores["interval"][0],
                "high": scores["interval"][1],
                "val": scores["val"],
                "seeds": len(each["runs"]),
                "best_layer": None if each["layer"] is None else found["best_layers"][each["head"]] == each["layer"],
                "train": each["proteins"]["train"],
                "test": each["proteins"]["test"],
                "like_pretraining": relatives(found.get("likeness")),
                "counts": found["data"]["difference"],
            }
    for each in found["published"]:
        yield {
            "model": each["model"],
            "task": task,
            "method": PUBLISHED,
            "metric": each["metric"],
            "main": each["metric"] == metric,
            "value": each["value"],
            "source": each["source"],
        }
