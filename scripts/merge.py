"""Rule merge."""

from pathlib import Path

from embedome.log import rule_log
from embedome.merge import merge_shards

with rule_log(snakemake.log):
    merge_shards(
        snakemake.input.manifests,
        snakemake.input.shards,
        snakemake.input.catalog,
        snakemake.input.splits,
        Path(snakemake.output.manifest).parent,
        threads=snakemake.threads,
    )
