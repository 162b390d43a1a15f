"""Rule download_url."""

from pathlib import Path

from embedome.common.log import rule_log
from embedome.sources.url import download_url

with rule_log(snakemake.log):
    download_url(
        snakemake.params.url,
        snakemake.wildcards.database,
        Path(snakemake.output.sequences),
        Path(snakemake.output.release),
        md5=snakemake.params.md5,
        sha256=snakemake.params.sha256,
    )
