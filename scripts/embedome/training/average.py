"""The command average: a model of the mean of a run's last checkpoints, as ESM-1nv is."""

import os
from pathlib import Path

from embedome.common.errors import UserError
from embedome.common.json_files import read_json
from embedome.models.create import make_config
from embedome.models.directory import PRETRAINING
from embedome.training.checkpoints import average, find_checkpoints, milestones
from embedome.training.model_files import new_model, save_model
from embedome.training.own_model import check_own_model
from embedome.training.run import RUN


def average_run(run: str | os.PathLike, model: str | os.PathLike, last: int) -> list[int]:
    """Write a model directory with the arithmetic mean of a run's last checkpoints.

    Parameters
    ----------
    run : path
        The folder of a run of `pretrain`.
    model : path
        The model directory to write.
    last : int
        Checkpoints, of those at the recipe's distance and the last one.

    Returns
    -------
    list of int
        Their steps.

    Raises
    ------
    UserError
        Where the folder is no run, or has fewer checkpoints; where the directory may not be replaced.
    """
    check_own_model(model)
    identity = read_json(Path(run) / RUN)
    recipe = identity["recipe"]
    found = milestones(find_checkpoints(Path(run) / "checkpoints"), recipe["every"])
    if not 1 <= last <= len(found):
        raise UserError(f"{run}: {len(found)} checkpoints are there; expected {last} of them, and 1 or more")
    steps = [each.step for each in found[-last:]]
    config = make_config(recipe["model"], recipe["sizes"], {"seed": identity["seed"]})
    module = new_model(recipe["model"], config, 0.0)
    module.load_state_dict(average(found[-last:]))
    about = {
        "name": identity["name"],
        "trained": True,
        PRETRAINING: {"recipe": recipe["name"], "averaged": steps, "data": identity["data"]},
    }
    save_model(model, recipe["model"], recipe["sizes"], module, about)
    return steps
