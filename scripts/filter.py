"""Rule filter."""

from embedome.filter import Limits, filter_records
from embedome.log import rule_log

with rule_log(snakemake.log):
    filter_records(
        snakemake.input.fasta,
        Limits(**snakemake.params.limits),
        catalog=snakemake.output.catalog,
        rejects=snakemake.output.rejects,
        summary=snakemake.output.summary,
        release=snakemake.input.get("release"),
    )
