"""Rule annotate."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.annotation.annotate import annotate_partition
from embedome.annotation.partitions import Partition
from embedome.common.log import rule_log

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    annotate_partition(
        Path(snakemake.input.dataset).parent,
        Path(snakemake.input.lookup).parent,
        Partition.of_job(snakemake.wildcards, snakemake.params.shards),
        snakemake.output.labels,
        catalog=snakemake.input.get("catalog"),
        threads=snakemake.threads,
    )
