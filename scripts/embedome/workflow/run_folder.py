"""The workflow's files, which a wheel brings along: listed where it is built, and laid into a folder to run in."""

import os
from collections.abc import Iterator
from pathlib import Path

from embedome.common.atomic_files import atomic_path
from embedome.common.errors import UserError
from embedome.common.outputs import check_outside, check_regular

# Files of the repository that Snakemake reads, or whoever runs it.
PATTERNS = (
    "Snakefile",
    "workflow/Snakefile",
    "config.yaml",
    "rules/*.smk",
    "scripts/*.py",
    "schemas/*.yaml",
    "presets/*.yaml",
    "profiles/*/*.yaml",
    "slurm/*.yaml",
    "envs/*.yaml",
    "docs/report/*.rst",
)
# The package's folder that the build copies them to.
IN_PACKAGE = "workflow_files"
PACKAGE = Path(__file__).resolve().parents[1]


def list_workflow(root: Path) -> list[str]:
    """Return the paths of the workflow's files below the top of the repository, or of a copy of it, in order."""
    return sorted(path.relative_to(root).as_posix() for pattern in PATTERNS for path in root.glob(pattern))


def is_installed() -> bool:
    """Return whether this library was built into a wheel; it is that of a checkout otherwise."""
    return (PACKAGE / IN_PACKAGE).is_dir()


def lay_workflow(folder: str | os.PathLike) -> list[str]:
    """Write the workflow's files into a folder; those that are there already, with the same bytes, stay.

    Parameters
    ----------
    folder : path
        May hold other files.

    Returns
    -------
    list of str
        Paths below the folder.

    Raises
    ------
    UserError
        Where a file of another content has one of the names, or the folder lies in a data set. Nothing is written then.
    """
    source, folder = PACKAGE / IN_PACKAGE if is_installed() else PACKAGE.parents[1], Path(folder)
    paths = list_workflow(source)
    if not paths:
        raise UserError(
            f"{PACKAGE}: comes without the workflow; install embedome from its wheel, or clone the repository"
        )
    check_outside(folder / paths[0])
    if other := next(others(source, folder, paths), None):
        raise UserError(f"{other}: is there already, and differs; name another folder, or move it")
    for path in paths:
        if not (folder / path).exists():
            with atomic_path(folder / path) as temporary:
                temporary.write_bytes((source / path).read_bytes())
    return paths


def others(source: Path, folder: Path, paths: list[str]) -> Iterator[Path]:
    """Yield files of a folder that have the name of one to be written, and not its bytes."""
    for path in paths:
        check_regular(folder / path)
        if (folder / path).exists() and (folder / path).read_bytes() != (source / path).read_bytes():
            yield folder / path
