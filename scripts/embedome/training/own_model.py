"""Which model directories training wrote, and may write over."""

import os
from pathlib import Path

from embedome.common.json_files import read_json
from embedome.common.outputs import check_own_folder
from embedome.models.create import MODEL_NAMES, is_untrained
from embedome.models.directory import CONFIG, PRETRAINING
from embedome.models.registry import CONFIG_KEY


def check_own_model(directory: str | os.PathLike) -> None:
    """Check that a directory may be replaced by a trained model.

    Random weights may be: a seed gives them again.

    Raises
    ------
    UserError
        Where embedome did not make it, or something else is in it.
    """
    advice = "name a directory that is not there; in a configuration model.pretrain: null uses what is there"
    check_own_folder(directory, MODEL_NAMES, lambda folder: is_pretrained(folder) or is_untrained(folder), advice)


def is_pretrained(folder: Path) -> bool:
    """Whether a folder is a model that was trained here."""
    path = folder / CONFIG
    config = read_json(path) if path.is_file() else None
    about = config.get(CONFIG_KEY) if isinstance(config, dict) else None
    return isinstance(about, dict) and PRETRAINING in about
