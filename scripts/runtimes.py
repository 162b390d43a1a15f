"""Rule runtimes."""

from embedome.analysis.runtimes import write_runtimes
from embedome.common.log import rule_log

with rule_log(snakemake.log):
    write_runtimes(snakemake.params.benchmarks, *snakemake.output)
