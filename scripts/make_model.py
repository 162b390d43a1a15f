"""Rule make_model."""

from pathlib import Path

from embedome.common.log import rule_log
from embedome.models.create import make_untrained

with rule_log(snakemake.log):
    make_untrained(Path(snakemake.output.config).parent, snakemake.params.name, **snakemake.params.untrained)
