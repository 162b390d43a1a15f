"""Rule make_demo."""

from pathlib import Path

from embedome.demo import write_release
from embedome.log import rule_log

with rule_log(snakemake.log):
    write_release(Path(snakemake.output.fasta).parent, **snakemake.params.demo)
