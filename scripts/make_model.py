"""Rule make_model."""

from pathlib import Path

from embedome.initialise import make_untrained
from embedome.log import rule_log

with rule_log(snakemake.log):
    make_untrained(Path(snakemake.output.config).parent, snakemake.params.name, **snakemake.params.untrained)
