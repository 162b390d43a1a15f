"""The ranks of a run on several nodes: one step of a Slurm job, in which each rank is a task.

Read in snakemake-executor-plugin-slurm 2.8.0 and its snakemake-executor-plugin-slurm-jobstep 0.6.1, and seen on
Slurm 22.05: a rule is a batch job, whose script runs snakemake on the first of the job's nodes. As a rule this one
starts the rule's script by ``srun -n1 --nodes=N --cpus-per-task=T``: a step with one process, on the first node, which
keeps the node's CPUs and memory from other steps but for those with ``--overlap``. With the resource ``mpi`` it starts
the script in the batch script itself, and leaves `srun` to it; of Slurm's variables only the job's id is passed on. So
the rule asks for `mpi`, ``nodes`` and one task a node, and its script starts one step over all nodes, which has
all of the job to itself.

In that step `srun` starts the ranks, without torchrun in between. Each of slurmd, srun and this process may pass
SIGTERM on; torchrun gives up at the third, and ends its ranks 30 s after the first. A rank counts none of them, and
leaves when its checkpoint is written. Ranks meet as torch does by itself (``env://``): at a store of rank 0, which is
on the first node.
"""

import os
import re
import subprocess
from collections.abc import MutableMapping, Sequence

from embedome.common.errors import UserError

# Below those that Linux hands out by itself (net.ipv4.ip_local_port_range), above those of known services.
FIRST_PORT, PORTS = 20_000, 10_000
# Seconds that the other ranks have once one has ended; they leave together, or one has failed.
LONGEST_END_S = 60


def step_command(nodes: int, ranks: int, threads: int | None, program: Sequence[str]) -> list[str]:
    """Return the command that runs a program in each rank of a Slurm job.

    Parameters
    ----------
    nodes, ranks : int
        Nodes, and ranks on each of them.
    threads : int or None
        CPUs of each rank; None: Slurm's default, one.
    program : sequence of str

    Examples
    --------
    >>> step_command(2, 8, 4, ["train"])[:4]
    ['srun', '--nodes=2', '--ntasks=16', '--ntasks-per-node=8']
    """
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes * ranks}",
        f"--ntasks-per-node={ranks}",
        f"--cpus-per-task={threads or 1}",
        # Rank 0 is on the first node.
        "--distribution=block",
        # Each rank sees all GPUs of its node, and takes the one of its number there.
        "--gpu-bind=none",
        "--export=ALL",
        # Whatever the site's default is: a rank that has ended must not end one that is still writing.
        "--kill-on-bad-exit=0",
        f"--wait={LONGEST_END_S}",
        *program,
    ]


def find_job(nodes: int) -> str:
    """Return the id of the Slurm job that this process is in.

    Raises
    ------
    UserError
        Where it is in none.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        raise UserError(
            f"nodes is {nodes}, but this is no job of Slurm; run snakemake with --profile slurm, or set "
            "model.pretrain.nodes to 1"
        )
    return job


def meeting_point(job: str, nodes: int, ranks: int) -> dict[str, str]:
    """Return the variables by which the ranks of a job find each other, with `take_place`.

    Raises
    ------
    UserError
        Where the job has fewer nodes, or Slurm does not answer.
    """
    names = ask("scontrol", "show", "hostnames", ask("squeue", "--noheader", f"--jobs={job}", "--format=%N")).split()
    if len(names) < nodes:
        raise UserError(f"Slurm job {job} has {len(names)} nodes, model.pretrain.nodes is {nodes}; ask for as many")
    return {
        "MASTER_ADDR": node_address(ask("scontrol", "show", "node", names[0], "--oneliner"), names[0]),
        "MASTER_PORT": str(meeting_port(job)),
        "WORLD_SIZE": str(nodes * ranks),
    }


def node_address(shown: str, name: str) -> str:
    """Return the address by which Slurm itself reaches a node, out of what scontrol shows of it; else its name.

    Examples
    --------
    >>> node_address("NodeName=gpu-01 Arch=x86_64 NodeAddr=10.0.0.1 NodeHostName=gpu-01", "gpu-01")
    '10.0.0.1'
    """
    found = re.search(r"\bNodeAddr=(\S+)", shown)
    return found[1] if found else name


def meeting_port(job: str) -> int:
    """Return the port of a job's ranks: another one for jobs whose ids are less than 10,000 apart.

    Examples
    --------
    >>> meeting_port("4123456")
    23456
    """
    return FIRST_PORT + int(job) % PORTS


def take_place(environment: MutableMapping[str, str]) -> None:
    """Give a rank that srun has started its number, under the names that torchrun would give it."""
    for name, task in (("RANK", "SLURM_PROCID"), ("LOCAL_RANK", "SLURM_LOCALID")):
        if name not in environment and task in environment:
            environment[name] = environment[task]


def requeue(job: str) -> bool:
    """Send this job back to the queue, unless it is ending already; return whether it was."""
    try:
        if ask("squeue", "--noheader", f"--jobs={job}", "--format=%T") != "RUNNING":
            return False
        ask("scontrol", "requeue", job)
    except UserError:
        return False
    return True


def ask(*command: str) -> str:
    """Return what one of Slurm's programs prints.

    Raises
    ------
    UserError
        Where it is not there, or fails.
    """
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"{command[0]}: no such program in this job's PATH; add that of Slurm's programs") from None
    if result.returncode:
        said = " ".join(result.stderr.split())
        raise UserError(
            f"{' '.join(command)}: {said or f'exit code {result.returncode}'}; run again when Slurm answers"
        )
    return result.stdout.strip()
