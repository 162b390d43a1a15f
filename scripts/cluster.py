"""Rule cluster."""

from embedome.cluster import ClusterPlan, cluster_catalog
from embedome.common.log import rule_log
from embedome.mmseqs import Mmseqs

with rule_log(snakemake.log):
    cluster_catalog(
        snakemake.input.catalog,
        snakemake.input.summary,
        ClusterPlan(**snakemake.params.plan),
        clusters=snakemake.output.clusters,
        summary=snakemake.output.summary,
        mmseqs=Mmseqs(snakemake.threads, snakemake.resources.mem_mb, f"{snakemake.log}.mmseqs"),
    )
