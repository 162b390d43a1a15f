"""Rule runtimes."""

from typing import TYPE_CHECKING

from embedome.analysis.runtimes import write_runtimes
from embedome.common.log import rule_log

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    write_runtimes(snakemake.params.benchmarks, *snakemake.output)
