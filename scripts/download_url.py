"""Rule download_url."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.sources.url import download_url

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    download_url(
        snakemake.params.url,
        snakemake.wildcards.database,
        Path(snakemake.output.sequences),
        Path(snakemake.output.release),
        md5=snakemake.params.md5,
        sha256=snakemake.params.sha256,
        max_gb=snakemake.config["source"]["max_gb"],
    )
