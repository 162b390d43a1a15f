"""Rule shard."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.dataset.reuse import Reuse
from embedome.embedding.cost import CostModel
from embedome.embedding.shard import write_shards

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    write_shards(
        snakemake.input.catalog,
        snakemake.input.splits,
        snakemake.input.summary,
        snakemake.params.n_shards,
        CostModel.from_config(snakemake.params.cost),
        folder=Path(snakemake.output.summary).parent,
        summary=snakemake.output.summary,
        reuse=Reuse.of_files(snakemake.input.reuse),
    )
