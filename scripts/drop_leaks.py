"""Rule drop_leaks."""

from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.splits.drop_leaks import drop_leaks
from embedome.splits.held_out import SearchSettings
from embedome.splits.mmseqs import Mmseqs

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    drop_leaks(
        snakemake.input.catalog,
        snakemake.input.splits,
        snakemake.input.summary,
        snakemake.input["filter"],
        SearchSettings.from_config(snakemake.params.plan),
        snakemake.params.drop_above,
        splits=snakemake.output.splits,
        summary=snakemake.output.summary,
        rejects=snakemake.output.rejects,
        mmseqs=Mmseqs.of_job(snakemake.threads, snakemake.resources.mem_mb, snakemake.log),
    )
