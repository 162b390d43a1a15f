"""Rule report."""

from pathlib import Path

from embedome.analysis.report import write_report
from embedome.common.log import rule_log

with rule_log(snakemake.log):
    write_report(
        Path(snakemake.input.statistics).parent,
        snakemake.input.ledger,
        Path(snakemake.output.ledger).parent,
        leakage=snakemake.input.get("leakage"),
        pca_sequences=snakemake.params.pca_sequences,
    )
