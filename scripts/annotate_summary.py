"""Rule annotate_summary."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.annotation.summary import summarise
from embedome.common.log import rule_log

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    summarise(
        Path(snakemake.input.dataset).parent,
        Path(snakemake.input.lookup).parent,
        snakemake.input["labels"],
        snakemake.output.summary,
    )
