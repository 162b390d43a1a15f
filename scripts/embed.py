"""Rule embed."""

from pathlib import Path

from embedome.embed import embed_shard, settings_of
from embedome.filter import source_identity
from embedome.log import rule_log

with rule_log(snakemake.log):
    embed_shard(
        snakemake.input.fasta,
        Path(snakemake.input.config).parent,
        snakemake.output.manifest,
        **settings_of(snakemake.params.embed, snakemake.params.cost),
        source=source_identity(snakemake.input.summary, snakemake.params.config_sha256),
        device="cuda" if snakemake.resources.gpu else "cpu",
    )
