"""Rule analyse."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.analysis.analyse import Samples, analyse_dataset
from embedome.common.dask_workers import DaskWorkers
from embedome.common.log import rule_log

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    analyse_dataset(
        Path(snakemake.input.dataset).parent,
        snakemake.input.catalog,
        snakemake.input.splits,
        Path(snakemake.output.statistics).parent,
        samples=Samples.from_config(snakemake.params.samples),
        families=snakemake.input.get("families"),
        workers=DaskWorkers.from_config(snakemake.config["dask"], snakemake.threads, snakemake.log),
    )
