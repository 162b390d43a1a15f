"""What a job on several nodes asks of Slurm, and what is refused before anything is queued."""

from types import SimpleNamespace

import pytest
from embedome.common.errors import UserError
from embedome.workflow.slurm_nodes import check_nodes, resources_of_nodes


class Resources(dict):
    """Resources of a job, as the executor plugin reads them."""

    __getattr__ = dict.__getitem__


def options(**resources):
    """What the executor plugin asks of sbatch."""
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    job = SimpleNamespace(resources=Resources(resources), threads=8)
    names = ("run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir")
    return (get_submit_command(job, dict.fromkeys(names, "")) + set_gres_string(job)).split()


def test_sbatch_is_asked_for_nodes_with_a_task_each_and_their_gpus():
    found = options(**resources_of_nodes(8), gpu=0, gres="gpu:8", mem_mb=8000)
    assert {"--nodes=8", "--ntasks=8", "--cpus-per-task=8", "--gres=gpu:8", "--signal=TERM@120"} <= set(found)
    assert not any(option.startswith(("--ntasks-per", "--gpus")) for option in found)
    assert resources_of_nodes(1) == {}


@pytest.mark.parametrize(
    ("ranks", "resources", "in_slurm", "fault"),
    [
        (8, {"gres": "gpu:8"}, False, "nodes is 2, but jobs do not go to Slurm; run snakemake with --profile slurm"),
        (8, {"gpu": 8}, True, 'counts GPUs of all nodes together, .*; set gpu: 0 and gres: "gpu:8"'),
        (8, {"gpu": 0, "gres": "gpu:a100:4"}, True, "gres is 'gpu:a100:4', 4 GPUs of each node, .*ranks is 8"),
        (2, {"gres": "gpu"}, True, "gres is 'gpu', 1 GPUs of each node"),
        (2, {"gres": "gpu:a100_3g.20gb"}, True, "1 GPUs of each node"),
    ],
)
def test_what_cannot_work_is_refused(ranks, resources, in_slurm, fault):
    with pytest.raises(UserError, match=fault):
        check_nodes(2, ranks, resources, in_slurm=in_slurm)


@pytest.mark.parametrize("gres", ["gpu:8", "gpu:a100:8", "gpu:16", "nvme:2", ""])
def test_a_gpu_for_each_rank_and_a_run_on_cpus_are_no_fault(gres):
    check_nodes(2, 8, {"gpu": 0, "gres": gres} if gres else {}, in_slurm=True)


def test_one_node_needs_no_slurm():
    check_nodes(1, 8, {"gpu": 8}, in_slurm=False)
