"""Rule download."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.sources.release import download_release

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    download_release(
        [Path(snakemake.input.demo).parent.resolve().as_uri()]
        if snakemake.input.get("demo")
        else snakemake.config["source"]["mirrors"],
        snakemake.wildcards.database,
        Path(snakemake.output.sequences),
        Path(snakemake.output.release),
        file_format=snakemake.params.file_format,
        release=snakemake.params.release,
        max_gb=snakemake.config["source"]["max_gb"],
    )
