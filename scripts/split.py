"""Rule split."""

from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.splits.split import split_catalog
from embedome.splits.split_methods import SplitSettings

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    split_catalog(
        snakemake.input.catalog,
        snakemake.input["filter"],
        SplitSettings.from_config(snakemake.params.plan),
        splits=snakemake.output.splits,
        summary=snakemake.output.summary,
        clusters=snakemake.input.get("clusters"),
        rejects=snakemake.output.get("rejects"),
    )
