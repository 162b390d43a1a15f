"""Rule report."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.analysis.report import write_report
from embedome.common.log import rule_log

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    write_report(
        Path(snakemake.input.statistics).parent,
        snakemake.input.ledger,
        Path(snakemake.output.ledger).parent,
        leakage=snakemake.input.get("leakage"),
        training=snakemake.input.get("training"),
        evaluation=snakemake.input.get("evaluation"),
        annotation=snakemake.input.annotation,
        pca_sequences=snakemake.params.pca_sequences,
    )
