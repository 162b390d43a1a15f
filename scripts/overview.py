"""Rule overview."""

from typing import TYPE_CHECKING

from embedome.analysis.overview import write_overview
from embedome.common.log import rule_log

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    write_overview(
        snakemake.output.page,
        snakemake.input.figures,
        snakemake.params.captions,
        statistics=snakemake.input.statistics,
        ledger=snakemake.input.ledger,
        runtimes=snakemake.input.runtimes,
        leakage=snakemake.input.get("leakage"),
    )
