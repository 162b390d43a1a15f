"""Rule reuse."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.dataset.reuse import find_reusable

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    find_reusable(
        snakemake.input.catalog,
        Path(snakemake.input.earlier).parent,
        reused=snakemake.output.reused,
        summary=snakemake.output.summary,
    )
