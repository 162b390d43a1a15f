"""Rule download."""

from pathlib import Path

from embedome.download import download_release
from embedome.log import rule_log

with rule_log(snakemake.log):
    download_release(
        snakemake.params.mirrors,
        snakemake.wildcards.database,
        Path(snakemake.output.fasta),
        Path(snakemake.output.release),
    )
