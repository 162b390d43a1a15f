"""Rule leakage."""

from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.splits.held_out import SearchSettings
from embedome.splits.leakage import measure_leakage
from embedome.splits.mmseqs import Mmseqs

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    measure_leakage(
        snakemake.input.catalog,
        snakemake.input.splits,
        SearchSettings.from_config(snakemake.params.plan),
        leakage=snakemake.output.leakage,
        summary=snakemake.output.summary,
        mmseqs=Mmseqs.of_job(snakemake.threads, snakemake.resources.mem_mb, snakemake.log),
    )
