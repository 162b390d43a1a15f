"""Rule finetune."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.embedding.part_pipeline import Machine
from embedome.evaluation.finetune import FinetuneSettings, finetune

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    finetune(
        Path(snakemake.input.config).parent,
        snakemake.params.task,
        snakemake.params.data,
        Path(snakemake.output.result).parent,
        settings=FinetuneSettings.from_config(
            snakemake.params.finetune,
            snakemake.params.embed,
            device=Machine.of_job(snakemake.resources).device,
            threads=snakemake.threads,
        ),
    )
