"""Rule shard."""

from pathlib import Path

from embedome.common.log import rule_log
from embedome.dataset.reuse import Reuse
from embedome.embedding.cost import CostModel
from embedome.embedding.shard import write_shards

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
