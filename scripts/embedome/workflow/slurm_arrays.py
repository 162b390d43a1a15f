"""Arrays that Slurm would never get: the executor plugin submits one when all of its jobs have been handed over."""

from collections.abc import Collection, Mapping

from embedome.common.errors import UserError


def check_arrays(pending: Mapping[str, int], arrays: Collection[str], array_size: int, at_once: int) -> None:
    """Check that enough jobs may be in the queue at once for each array to be submitted.

    Parameters
    ----------
    pending : mapping
        Number of jobs of each rule that is to run.
    arrays : collection of str
        Rules whose jobs are arrays; ``all`` stands for all rules.
    array_size : int
        Jobs of an array at most: of more, this many are submitted.
    at_once : int
        Jobs that Snakemake hands over before one of them ends.

    Raises
    ------
    UserError
        Names the rule and the settings.
    """
    for rule, count in pending.items():
        wanted = min(count, array_size)
        if (rule in arrays or "all" in arrays) and wanted > at_once:
            raise UserError(
                f"slurm-array-jobs: {rule} has {count:,} jobs, which are submitted {wanted:,} at once, but jobs and "
                f"max-jobs-per-timespan let {at_once:,} into the queue: it would wait for ever. Set both to {wanted:,} "
                f"or more, or take {rule} out of slurm-array-jobs"
            )
