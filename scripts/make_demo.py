"""Rule make_demo."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.sources.demo.release import write_release

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    write_release(Path(snakemake.output.fasta).parent, **snakemake.params.demo)
