"""Jobs on several nodes: what they ask of Slurm, and what would not work, refused before anything is queued."""

import re
from collections.abc import Mapping
from typing import Any

from embedome.common.errors import UserError

# Slurm sends SIGTERM to a job's steps this many seconds before its time is over: for a checkpoint.
WARNING_S = 120


def resources_of_nodes(nodes: int) -> dict[str, Any]:
    """Return what a job on several nodes asks for beside the rest, in Snakemake's resources; nothing for one node.

    With ``mpi`` the executor starts the job outside of any step, so that it can start one over all nodes
    (`training.slurm_step`); it then wants to know the tasks, of which there is one a node, with all of the rule's
    threads. ``tasks_per_gpu`` keeps it from asking for that many tasks on each GPU.
    """
    if nodes == 1:
        return {}
    warning = f"--signal=TERM@{WARNING_S}"
    return {"nodes": nodes, "tasks": nodes, "tasks_per_gpu": 0, "mpi": "srun", "slurm_extra": warning}


def check_nodes(nodes: int, ranks: int, resources: Mapping[str, Any], *, in_slurm: bool) -> None:
    """Check that a pretraining job on several nodes gets them, and a GPU for each rank where it asks for GPUs.

    Parameters
    ----------
    nodes, ranks : int
        Nodes, and ranks on each of them.
    resources : mapping
        Of the job.
    in_slurm : bool
        Whether the job goes to Slurm, or runs within a job of it.

    Raises
    ------
    UserError
        Names the setting.
    """
    if nodes == 1:
        return
    if not in_slurm:
        raise UserError(
            f"model.pretrain.nodes is {nodes}, but jobs do not go to Slurm; run snakemake with --profile slurm, or set "
            "it to 1"
        )
    if resources.get("gpu"):
        raise UserError(
            f"model.pretrain.nodes is {nodes}, and pretrain's resource gpu counts GPUs of all nodes together, however "
            f'Slurm deals them out; set gpu: 0 and gres: "gpu:{ranks}", which counts those of each node'
        )
    found = re.fullmatch(r"gpu(?::[^:]*[^:0-9][^:]*)?(?::(\d+))?", str(resources.get("gres", "")))
    if found and (given := int(found[1] or 1)) < ranks:
        raise UserError(
            f"pretrain's resource gres is {resources['gres']!r}, {given} GPUs of each node, but model.pretrain.ranks "
            f"is {ranks}; ask for one for each rank"
        )
