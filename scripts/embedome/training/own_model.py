"""Which model directories training wrote, and may write over."""

import os
from pathlib import Path

from embedome.common.json_files import read_json
from embedome.common.outputs import check_own_folder
from embedome.models.create import MODEL_NAMES
from embedome.models.directory import CONFIG, PRETRAINING
from embedome.models.registry import CONFIG_KEY


def check_own_model(directory: str | os.PathLike) -> None:
    """Check that a directory may be replaced by a trained model.

    Raises
    ------
    UserError
        Where training did not write it, or something else is in it.
    """
    check_own_folder(directory, MODEL_NAMES, is_pretrained)


def is_pretrained(folder: Path) -> bool:
    """Whether a folder is a model that was trained here."""
    path = folder / CONFIG
    config = read_json(path) if path.is_file() else None
    about = config.get(CONFIG_KEY) if isinstance(config, dict) else None
    return isinstance(about, dict) and PRETRAINING in about
