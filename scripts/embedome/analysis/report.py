"""Report stage: plots and tables for Snakemake's report, from what the analyse stage and the ledger counted."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from embedome.analysis import analyse, number_names, plots
from embedome.analysis.drawing import save
from embedome.analysis.drift import REFERENCE
from embedome.analysis.evaluation_scores import plot_scores, read_scores, scores_table
from embedome.analysis.interactive_map import write_map
from embedome.analysis.labels import sample_annotation, sample_labels
from embedome.analysis.ledger_flow import plot_flow
from embedome.analysis.number_names import name_numbers
from embedome.analysis.report_tables import is_number, write_page, write_tsv
from embedome.analysis.training_curve import plot_training, read_training
from embedome.common.errors import UserError
from embedome.common.json_files import read_json
from embedome.common.terms import SPLITS
from embedome.dataset.part_file import read_rows


def write_report(
    analysis: str | os.PathLike,
    ledger: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    leakage: str | os.PathLike | None = None,
    training: str | os.PathLike | None = None,
    evaluation: str | os.PathLike | None = None,
    annotation: Iterable[str | os.PathLike] = (),
    pca_sequences: int = 2000,
) -> None:
    """Write ``ledger.tsv``, pages of ledger, provenance, numbers and what else there is, the map, and plots as SVG.

    Parameters
    ----------
    analysis : path
        Folder that `analyse.analyse_dataset` wrote to.
    ledger : path
        ledger.json
    folder : path
        Where the files go.
    leakage : path, optional
        leakage.json, where it was measured.
    training : path, optional
        summary.json of the model's training, where the run trained it; training.jsonl lies beside it.
    evaluation : path, optional
        table.parquet of evaluations, where there are any.
    annotation : iterable of paths, optional
        Parquet files of the annotation, where there is one.
    pca_sequences : int
        Sequences drawn on principal axes.
    """
    analysis, folder = Path(analysis), Path(folder)
    statistics = read_json(analysis / analyse.STATISTICS)
    account = read_json(ledger)
    header, rows = ["state", "records", *SPLITS], ledger_rows(account)
    write_tsv(folder / "ledger.tsv", header, rows)
    write_page(folder / "ledger.html", "What became of every record", header, rows)
    numbers = flatten({key: value for key, value in statistics.items() if key not in ("schema", "provenance")})
    write_page(folder / "numbers.html", "Numbers about the data set", number_names.HEADER, name_numbers(numbers))
    write_page(folder / "provenance.html", "Provenance", ("what", "value"), flatten(statistics["provenance"]))
    if leakage:
        header, rows = leakage_table(read_json(leakage))
        write_page(folder / "leakage.html", "Held-out sequences with a hit in train", header, rows)
    if training:
        summary, lines = read_training(training)
        write_page(folder / "training.html", "Training of the model", ("what", "value"), flatten(summary))
        save(plot_training(summary, lines), folder / "training.svg")
    if evaluation:
        scores = read_scores(evaluation)
        header, rows = scores_table(scores)
        write_page(folder / "evaluation.html", "What vectors are worth: scores on test", header, rows)
        save(plot_scores(scores), folder / "evaluation.svg")
    sample = read_sample(analysis / analyse.SAMPLE)
    labels, annotated = sample_labels(sample), list(annotation)
    coloured = [labels, sample_annotation(sample["id"].to_pylist(), annotated)] if annotated else [labels]
    explained, model = statistics["components"]["explained"], statistics["provenance"]["model"]["name"]
    write_map(folder / "map.html", sample, coloured, explained, model)
    components = statistics["components"]
    figures = {
        "flow": lambda: plot_flow(account),
        "lengths": lambda: plots.plot_lengths(read_rows(analysis / analyse.LENGTHS)),
        "composition": lambda: plots.plot_composition(read_rows(analysis / analyse.COMPOSITION), statistics["kept"]),
        "norms": lambda: plots.plot_norms(read_rows(analysis / analyse.NORMS)),
        "spectrum": lambda: plots.plot_spectrum(
            read_rows(analysis / analyse.COMPONENTS), statistics["rows"], components["effective_rank"]
        ),
        "pca": lambda: plots.plot_pca(sample, labels, pca_sequences, explained),
        "umap": lambda: plots.plot_umap(sample, labels, statistics["umap"]["reason"]),
        "neighbours": lambda: plots.plot_neighbours(sample, statistics["neighbours"]),
        "drift": lambda: plots.plot_drift(
            read_rows(analysis / analyse.DIMENSIONS), statistics["drift"], statistics["splits"][REFERENCE]
        ),
    }
    for name, draw in figures.items():
        save(draw(), folder / f"{name}.svg")


def read_sample(path: Path) -> pa.Table:
    """Read the sampled sequences.

    Raises
    ------
    UserError
        Where they were written by an earlier version, without their lengths and norms.
    """
    sample = read_rows(path)
    if missing := [name for name in ("length", "norm") if name not in sample.column_names]:
        raise UserError(f"{path}: no column {missing[0]}; an earlier version wrote it: delete it and run again")
    return sample


def ledger_rows(ledger: Mapping[str, Any]) -> list[tuple]:
    """Return a line per state a record can end in, with each split's share."""
    rows = [("rejected: " + reason, count, *[""] * len(SPLITS)) for reason, count in ledger["rejected"].items()]
    for kind in ("states", "skipped"):
        for name, count in ledger[kind].items():
            shares = [ledger["splits"][split][kind].get(name, 0) for split in SPLITS]
            rows.append((name if kind == "states" else f"skipped: {name}", count, *shares))
    return [*rows, ("read", ledger["read"], *[ledger["splits"][split]["sequences"] for split in SPLITS])]


def leakage_table(leakage: Mapping[str, Any]) -> tuple[list[str], list[tuple]]:
    """Return distinct sequences of val and of test by the identity, at least, of their nearest hit in train.

    Last all of them, and those that could not be searched.
    """
    splits = leakage["splits"]
    header = ["identity, at least", *(column for split in splits for column in (split, f"{split} (%)"))]
    rows = [
        (each[0]["identity"], *(cell for one in each for cell in (one["sequences"], percent(one["fraction"]))))
        for each in zip(*(split["thresholds"] for split in splits.values()), strict=True)
    ]
    totals = [
        (name, *(cell for split in splits.values() for cell in (split[key], "")))
        for name, key in (("all", "sequences"), ("not searched", "not_searched"))
    ]
    return header, rows + totals


def percent(fraction: float | None) -> float | str:
    """Return a fraction in per cent; an empty text where there is none."""
    return "" if fraction is None else round(100 * fraction, 2)


def flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return every value of nested JSON with the keys that lead to it; lists of plain values in one line."""
    if isinstance(value, Mapping):
        parts = [(str(key), below) for key, below in value.items()]
    elif isinstance(value, list) and any(isinstance(each, Mapping | list) for each in value):
        parts = [(str(number), below) for number, below in enumerate(value, 1)]
    else:
        return [(path, format_value(value))]
    return [line for key, below in parts for line in flatten(below, f"{path}: {key}" if path else key)]


def format_value(value: Any) -> Any:
    """Return a value of JSON as it is shown: a number as it is, else text."""
    if isinstance(value, list):
        return ", ".join(str(format_value(each)) for each in value)
    names = {None: "none", True: "yes", False: "no"}
    return value if is_number(value) else names.get(value, value)
