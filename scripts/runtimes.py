"""Rule runtimes."""

from embedome.common.log import rule_log
from embedome.runtimes import write_runtimes

with rule_log(snakemake.log):
    write_runtimes(snakemake.params.benchmarks, *snakemake.output)
