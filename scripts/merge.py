"""Rule merge."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.dask_workers import DaskWorkers
from embedome.common.log import rule_log
from embedome.dataset.reuse import Reuse
from embedome.merging.merge import merge_shards

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    merge_shards(
        snakemake.input.manifests,
        snakemake.input.shards,
        snakemake.input.catalog,
        snakemake.input.splits,
        Path(snakemake.output.manifest).parent,
        file_mb=snakemake.params.file_mb,
        summaries={"filter": snakemake.input.filter, "split": snakemake.input.split},
        reuse=Reuse.of_files(snakemake.input.reuse, snakemake.params.earlier),
        workers=DaskWorkers.from_config(snakemake.config["dask"], snakemake.threads, snakemake.log),
    )
