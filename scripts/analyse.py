"""Rule analyse."""

from pathlib import Path

from embedome.analyse import Samples, analyse_dataset
from embedome.log import rule_log
from embedome.workers import Workers

with rule_log(snakemake.log):
    analyse_dataset(
        Path(snakemake.input.dataset).parent,
        snakemake.input.catalog,
        snakemake.input.splits,
        Path(snakemake.output.statistics).parent,
        samples=Samples(**snakemake.params.samples),
        families=snakemake.input.get("families"),
        workers=Workers(**snakemake.config["dask"], threads=snakemake.threads, logs=f"{snakemake.log}.dask"),
    )
