"""Rule and command pretrain: sequences in, a model directory out."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedome.training.beginning import as_directory, check_beginning
from embedome.training.data import TRAIN, VAL, store_fasta, store_splits
from embedome.training.launch import train_on
from embedome.training.own_model import check_own_model
from embedome.training.run import check_new_run
from embedome.training.settings import PretrainSettings

# Of a run's folder: the two stores, and of the command's the model.
DATA, MODEL = "data", "model"


def pretrain_splits(
    catalog: str | os.PathLike,
    splits: str | os.PathLike,
    summary: str | os.PathLike,
    run: str | os.PathLike,
    model: str | os.PathLike,
    *,
    settings: PretrainSettings,
    ranks: int,
    nodes: int = 1,
) -> dict[str, Any]:
    """Train a model on the split train, and validate it on val.

    Parameters
    ----------
    catalog, splits, summary : path
        What the filter and split stages wrote.
    run : path
        Folder of the run; an existing run is resumed.
    model : path
        The model directory to write.
    settings : PretrainSettings
    ranks : int
        Processes on each node, one for each device.
    nodes : int
        Of the Slurm job that this process is in.

    Returns
    -------
    dict
        What summary.json says.

    Raises
    ------
    UserError
        As `data.store_splits` and `run.train_run`.
    """
    run = Path(run)
    settings = check_settings(run, model, settings)
    store_splits(catalog, splits, summary, run / DATA)
    return train_on(ranks, run / DATA / TRAIN, run / DATA / VAL, run, model, settings, nodes)


def pretrain_fasta(
    fasta: Sequence[str | os.PathLike],
    val: Sequence[str | os.PathLike] | float,
    run: str | os.PathLike,
    *,
    settings: PretrainSettings,
    ranks: int,
) -> dict[str, Any]:
    """Train a model on FASTA files; it is in the folder ``model`` of the run's.

    Parameters
    ----------
    fasta : sequence of paths
    val : sequence of paths, or float
        Held-out sequences, or the fraction that is held out.
    run : path
        Folder of the run; an existing run is resumed.
    settings : PretrainSettings
    ranks : int
        Processes, one for each device.

    Returns
    -------
    dict
        What summary.json says.

    Raises
    ------
    UserError
        As `data.store_fasta` and `run.train_run`.
    """
    run = Path(run)
    settings = check_settings(run, run / MODEL, settings)
    store_fasta(fasta, val, run / DATA)
    return train_on(ranks, run / DATA / TRAIN, run / DATA / VAL, run, run / MODEL, settings)


def check_settings(run: Path, model: str | os.PathLike, settings: PretrainSettings) -> PretrainSettings:
    """Check what can be checked before the data are read; return the settings, with a directory to begin with."""
    settings.make_recipe()
    check_own_model(model)
    check_new_run(run)
    if not settings.init:
        return settings
    check_beginning(settings.init)
    return replace(settings, init=as_directory(settings.init, run))
