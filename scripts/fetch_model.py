"""Rule fetch_model."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.models.hub import fetch_model

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log, offline=False):
    fetch_model(directory=Path(snakemake.output.config).parent, **snakemake.params.model)
