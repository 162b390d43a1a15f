"""Checkpoints of a finished run that neither its result nor going on needs."""

from collections.abc import Iterator
from pathlib import Path

from embedome.common.json_files import read_json
from embedome.common.unneeded import Unneeded
from embedome.training.checkpoints import OPTIMISERS, find_checkpoints
from embedome.training.run import LOCK, RUN, SUMMARY


def unneeded_checkpoints(run: Path) -> Iterator[Unneeded]:
    """Yield what a run of pretraining no longer needs; of one that has not ended nothing.

    The checkpoints that summary.json names stay, as the model is their mean, and the last one whole: with these the
    same command finds the run finished.

    Parameters
    ----------
    run : Path
        Its folder.
    """
    if not (run / RUN).is_file() or not (run / SUMMARY).is_file():
        return
    averaged = set(read_json(run / SUMMARY)["averaged"])
    for each in find_checkpoints(run / "checkpoints")[:-1]:
        if each.step not in averaged:
            yield Unneeded(each.path, "checkpoint of a finished run, not in its mean", run / LOCK)
        elif (each.path / OPTIMISERS).is_file():
            yield Unneeded(each.path / OPTIMISERS, "optimisers' state of a finished run", run / LOCK)
