"""Rule make_demo."""

from pathlib import Path

from embedome.common.log import rule_log
from embedome.sources.demo.release import write_release

with rule_log(snakemake.log):
    write_release(Path(snakemake.output.fasta).parent, **snakemake.params.demo)
