"""Rule ledger."""

from typing import TYPE_CHECKING

from embedome.common.log import rule_log
from embedome.merging.ledger import write_ledger

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    write_ledger(
        snakemake.input["filter"],
        snakemake.input["split"],
        snakemake.input["shards"],
        snakemake.input["manifests"],
        snakemake.input["dataset"],
        snakemake.output.ledger,
    )
