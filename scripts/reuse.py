"""Rule reuse."""

from pathlib import Path

from embedome.common.log import rule_log
from embedome.dataset.reuse import find_reusable

with rule_log(snakemake.log):
    find_reusable(
        snakemake.input.catalog,
        Path(snakemake.input.earlier).parent,
        reused=snakemake.output.reused,
        summary=snakemake.output.summary,
    )
