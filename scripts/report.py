"""Rule report."""

from pathlib import Path

from embedome.log import rule_log
from embedome.report import write_report
from embedome.workers import Workers

with rule_log(snakemake.log):
    write_report(
        Path(snakemake.input.dataset).parent,
        snakemake.input.ledger,
        Path(snakemake.output.statistics).parent,
        families=snakemake.input.get("families"),
        pca_sequences=snakemake.params.pca_sequences,
        workers=Workers(**snakemake.params.dask, threads=snakemake.threads, logs=f"{snakemake.log}.dask"),
    )
