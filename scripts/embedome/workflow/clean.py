"""What a run has left that nothing needs any more, in the folder in which it ran."""

import os
from collections.abc import Iterator
from pathlib import Path

from embedome.common.errors import UserError
from embedome.common.locks import try_lock
from embedome.common.unneeded import Unneeded

# Of `make run`, and of Snakemake where it was not told to do without.
RUN_LOCK, SNAKEMAKE_LOCKS = ".embedome.lock", Path(".snakemake/locks")


def find_unneeded(folder: str | os.PathLike) -> list[Unneeded]:
    """List what no manifest in a folder needs, and nobody works on.

    Parameters
    ----------
    folder : path
        In which Snakemake ran; or of a run of `embedome pretrain`, of results of `embedome evaluate`, or one in which
        files of `embedome embed` are.

    Raises
    ------
    UserError
        Where there is nothing of embedome's, or a run is going on.
    """
    folder = Path(folder)
    if not holds_run(folder):
        raise UserError(f"{folder}: holds no run of embedome; name the folder in which results/ is")
    check_idle(folder)
    return [each for each in all_unneeded(folder) if not each.is_held]


def holds_run(folder: Path) -> bool:
    """Return whether there is something in a folder that may be cleaned."""
    return any((folder / name).exists() for name in ("results", "run.json", "cache/features")) or any(
        folder.glob("*.work")
    )


def check_idle(folder: Path) -> None:
    """Refuse the folder of a run that is going on.

    Raises
    ------
    UserError
        Says how it is known.
    """
    if (folder / RUN_LOCK).is_file():
        with try_lock(folder / RUN_LOCK) as is_free:
            if not is_free:
                raise UserError(f"{folder}: a run is going on; wait for it, then clean")
    if (folder / SNAKEMAKE_LOCKS).is_dir() and any((folder / SNAKEMAKE_LOCKS).iterdir()):
        raise UserError(
            f"{folder}: Snakemake has locked it; wait for its run, or if that was killed: snakemake --unlock"
        )


def all_unneeded(folder: Path) -> Iterator[Unneeded]:
    """Yield what is not needed, store by store."""
    from embedome.embedding.unneeded import unneeded_parts, unneeded_work
    from embedome.evaluation.unneeded import unneeded_features
    from embedome.training.unneeded import unneeded_checkpoints

    results = folder / "results"
    yield from unneeded_parts(results)
    for run in (folder, *sorted((results / "pretraining").glob("*"))):
        yield from unneeded_checkpoints(run)
    for out in (folder, results / "evaluation"):
        yield from unneeded_features(out)
    yield from unneeded_work(folder)
