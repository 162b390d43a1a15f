"""Rule evaluate."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.embedding.part_pipeline import Machine
from embedome.evaluation.evaluate import evaluate_for_run
from embedome.evaluation.settings import EvaluateSettings

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    evaluate_for_run(
        snakemake.params.task["name"],
        snakemake.params.task["data"],
        Path(snakemake.input.config).parent,
        snakemake.output.summary,
        settings=EvaluateSettings.from_config(
            snakemake.params.evaluate,
            snakemake.params.embed,
            device=Machine.of_job(snakemake.resources).device,
            threads=snakemake.threads,
        ),
        pretraining=snakemake.params.pretraining,
    )
