"""Rule make_model."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.models.create import make_untrained

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    make_untrained(Path(snakemake.output.config).parent, snakemake.params.name, **snakemake.params.untrained)
