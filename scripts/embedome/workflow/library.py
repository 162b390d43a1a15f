"""Which copy of this library jobs use."""

import os
from pathlib import Path

from embedome.common.atomic_files import temporary_beside
from embedome.workflow.run_folder import PACKAGE, is_installed


def use_in_jobs(run_folder: Path) -> None:
    """Have the processes that this one starts import this copy of the library, whatever version is installed there.

    An installed copy lies among other packages, which a job in a conda environment must not see: such jobs get a folder
    with a link to it alone, in the folder of the run.
    """
    folder = link_package(run_folder / ".snakemake" / "embedome") if is_installed() else PACKAGE.parent
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{others}" if others else str(folder)


def link_package(folder: Path) -> Path:
    """Make a folder with a link to the package, or correct the link in it; return its absolute path."""
    link = folder.absolute() / PACKAGE.name
    folder.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() or link.readlink() != PACKAGE:
        # By renaming: other processes of the run read it.
        temporary = temporary_beside(link)
        temporary.symlink_to(PACKAGE)
        temporary.replace(link)
    return link.parent
