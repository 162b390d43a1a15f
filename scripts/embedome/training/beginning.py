"""The model that training begins with: a directory, or a NeMo archive, which is converted first."""

import os
from pathlib import Path

from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256
from embedome.models.directory import check_model_directory, read_config
from embedome.models.registry import CONFIG_KEY

ARCHIVE_SUFFIX = ".nemo"
# Of a run's folder: the archive as a model directory.
INIT = "init"


def check_beginning(init: str | os.PathLike) -> None:
    """Check that there is a model to begin with.

    Raises
    ------
    UserError
        Where there is no such archive, or as `directory.check_model_directory`.
    """
    if not is_archive(init):
        check_model_directory(init)
    elif not Path(init).is_file():
        raise UserError(f"{init}: no such archive; expected a .nemo file, or a model directory")


def is_archive(init: str | os.PathLike) -> bool:
    """Return whether a model to begin with is named as an archive is."""
    return Path(init).suffix == ARCHIVE_SUFFIX and not Path(init).is_dir()


def as_directory(init: str | os.PathLike, run: Path) -> str:
    """Return the model directory to begin with; an archive is converted to one in the folder of the run.

    Raises
    ------
    UserError
        As `nemo.convert.import_nemo`, and where the run began with another archive.
    """
    if not is_archive(init):
        return str(init)
    from embedome.models.nemo.convert import import_nemo

    directory = run / INIT
    if not directory.exists():
        import_nemo(init, directory, other_vocabulary=True)
    elif read_config(directory).get(CONFIG_KEY, {}).get("archive_sha256") != file_sha256(init):
        raise UserError(f"{run}: a run that began with another archive; go on with the same, or name another folder")
    return str(directory)
