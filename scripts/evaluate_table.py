"""Rule evaluate_table."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.evaluation.results import write_table

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    write_table(Path(snakemake.output.tsv).parent)
