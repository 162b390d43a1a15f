"""Rule split."""

from embedome.common.log import rule_log
from embedome.split import SplitPlan, split_catalog

with rule_log(snakemake.log):
    split_catalog(
        snakemake.input.catalog,
        snakemake.input["filter"],
        SplitPlan(**snakemake.params.plan),
        splits=snakemake.output.splits,
        summary=snakemake.output.summary,
        clusters=snakemake.input.get("clusters"),
        rejects=snakemake.output.get("rejects"),
    )
