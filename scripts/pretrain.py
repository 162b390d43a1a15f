"""Rule pretrain."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.embedding.part_pipeline import Machine
from embedome.training.pretrain import pretrain_splits
from embedome.training.settings import PretrainSettings

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    pretrain_splits(
        snakemake.input.catalog,
        snakemake.input.splits,
        snakemake.input.summary,
        Path(snakemake.output.summary).parent,
        Path(snakemake.output.config).parent,
        settings=PretrainSettings.from_config(
            snakemake.params.name, snakemake.params.pretrain, Machine.of_job(snakemake.resources).device
        ),
        ranks=snakemake.params.pretrain["ranks"],
        nodes=snakemake.params.pretrain["nodes"],
    )
