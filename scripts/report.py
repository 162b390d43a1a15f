"""Rule report."""

from pathlib import Path

from embedome.common.log import rule_log
from embedome.report import write_report

with rule_log(snakemake.log):
    write_report(
        Path(snakemake.input.statistics).parent,
        snakemake.input.ledger,
        Path(snakemake.output.ledger).parent,
        leakage=snakemake.input.get("leakage"),
        pca_sequences=snakemake.params.pca_sequences,
    )
