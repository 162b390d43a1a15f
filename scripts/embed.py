"""Rule embed."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.catalog.filter import source_identity
from embedome.common.log import rule_log
from embedome.embedding.embed import embed_shard
from embedome.embedding.part_pipeline import Machine
from embedome.embedding.settings import EmbedSettings, PartLimits

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    embed_shard(
        snakemake.input.fasta,
        Path(snakemake.input.config).parent,
        snakemake.output.manifest,
        settings=EmbedSettings.from_config(snakemake.params.embed),
        limits=PartLimits.from_config(snakemake.params.embed, snakemake.params.cost),
        source=source_identity(snakemake.input.summary, snakemake.params.config_sha256),
        machine=Machine.of_job(snakemake.resources, snakemake.threads),
        shards=snakemake.input.shards,
        metrics=snakemake.output.metrics,
    )
