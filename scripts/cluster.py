"""Rule cluster."""

from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.splits.cluster import ClusterSettings, cluster_catalog
from embedome.splits.mmseqs import Mmseqs

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    cluster_catalog(
        snakemake.input.catalog,
        snakemake.input.summary,
        ClusterSettings.from_config(snakemake.params.plan),
        clusters=snakemake.output.clusters,
        summary=snakemake.output.summary,
        mmseqs=Mmseqs.of_job(snakemake.threads, snakemake.resources.mem_mb, snakemake.log),
    )
