"""A user's own task: proteins in FASTA, and a table of what is known of them."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from embedome.common.errors import UserError, cut, quote_value
from embedome.evaluation.data_files import DataFile, files_in
from embedome.evaluation.examples import NO_LABEL, ExampleSet, Labelling, Row, make_examples
from embedome.evaluation.readers import read_sequences
from embedome.evaluation.tasks import (
    ACCURACY,
    CLASSES,
    LABELS,
    MACRO_F1,
    NUMBERS,
    PROTEIN,
    RESIDUE,
    SPEARMAN,
    SPLITS,
    Task,
)

OWN = "own"
# The column of the target says what the labels are of, and what they are.
COLUMNS = {
    "class": (PROTEIN, CLASSES),
    "labels": (PROTEIN, LABELS),
    "number": (PROTEIN, NUMBERS),
    "residue_classes": (RESIDUE, CLASSES),
    "residue_labels": (RESIDUE, LABELS),
    "residue_numbers": (RESIDUE, NUMBERS),
}
METRICS = {CLASSES: ACCURACY, LABELS: MACRO_F1, NUMBERS: SPEARMAN}
HEADS = {(RESIDUE, CLASSES): "convolutions", (PROTEIN, CLASSES): "mlp-256", (PROTEIN, NUMBERS): "mlp-128"}
TABLES = (".tsv", ".csv")


def read_own_task(data: Sequence[str | os.PathLike]) -> tuple[Task, ExampleSet, list[DataFile]]:
    """Read a FASTA file and a table with the columns ``id``, ``split``, one of `COLUMNS`, and, if wanted, ``mask``.

    Parameters
    ----------
    data : sequence of paths
        One of the two ends in .tsv or .csv.

    Returns
    -------
    Task
        Named as the table.
    ExampleSet
    list of DataFile
        The two files.

    Raises
    ------
    UserError
        Where there are not two such files, the table lacks a column, a protein of the table is not in the FASTA file,
        or a split is none; and as `examples.make_examples`.
    """
    files = [file for each in data for file in files_in(Path(each))]
    tables = [file for file in files if file.name.endswith(TABLES)]
    if len(files) != 2 or len(tables) != 1:
        raise UserError(
            f"--data is {', '.join(map(str, data))}; expected for --task {OWN} a FASTA file and a table, .tsv or .csv"
        )
    [table] = tables
    [fasta] = [file for file in files if file is not table]
    sequences = read_sequences(fasta)
    rows, column = read_rows(table, sequences, fasta)
    level, kind = COLUMNS[column]
    left_out = Counter({NO_LABEL: len(sequences) - len(rows)}) if len(rows) < len(sequences) else Counter()
    task = Task(
        name=task_name(table),
        about=f"own task, {column.replace('_', ' ')}",
        reader=OWN,
        files={"sequences": fasta.name, "labels": table.name},
        level=level,
        kind=kind,
        metric=METRICS[kind],
        head=HEADS.get((level, kind), "linear" if kind == LABELS else "ridge"),
        source=str(table),
        licence="the user's",
        column=column,
    )
    return task, make_examples(rows, Labelling(level, kind), left_out), [fasta, table]


def task_name(table: DataFile) -> str:
    """Return the name of a user's own task: that of its table."""
    return Path(table.name).stem


def name_results(task: str, data: Sequence[str | os.PathLike]) -> str | None:
    """Return the name of a task's results, without reading its files: of a user's own task that of its table.

    None where that is not two files, one of them a table.
    """
    if task != OWN:
        return task
    files = [DataFile(Path(each)) for each in data]
    tables = [file for file in files if file.name.endswith(TABLES)]
    return task_name(tables[0]) if (len(files), len(tables)) == (2, 1) else None


def read_rows(table: DataFile, sequences: dict[str, bytes], fasta: DataFile) -> tuple[list[Row], str]:
    """Return the rows of a table, and which column the target is in."""
    rows: dict[str, Row] = {}
    column = ""
    for where, fields in table.table():
        column = column or target_column(table, fields)
        name, split = fields["id"], fields["split"]
        if name not in sequences:
            raise UserError(f"{where}: {quote_value(name)} is not in {fasta}; give its sequence, or take the row away")
        if name in rows:
            raise UserError(f"{where}: the id {cut(name)} comes twice, before in {rows[name].where}")
        if split not in SPLITS:
            raise UserError(f"{where}: the split of {cut(name)} is {quote_value(split)}; expected {', '.join(SPLITS)}")
        # A protein may have no label of several.
        if not fields[column] and COLUMNS[column][1] != LABELS:
            raise UserError(f"{where}: {cut(name)} has no {column}; fill it in, or take the row away")
        rows[name] = Row(name, sequences[name], split, fields[column], where, fields.get("mask"))
    if not rows:
        raise UserError(f"{table}: has no rows; expected one for each protein")
    return list(rows.values()), column


def target_column(table: DataFile, fields: dict[str, str]) -> str:
    """Return which column the target is in.

    Raises
    ------
    UserError
        Where it is none or several, or the id or split has no column.
    """
    found = [name for name in fields if name in COLUMNS]
    missing = [name for name in ("id", "split") if name not in fields]
    if missing or len(found) != 1:
        raise UserError(
            f"{table}: has the columns {cut(', '.join(fields))}; expected id, split and one of {', '.join(COLUMNS)}"
        )
    return found[0]
