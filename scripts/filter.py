"""Rule filter."""

from typing import TYPE_CHECKING

from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records
from embedome.catalog.reading import ReadSettings
from embedome.common.log import rule_log

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

# Worker processes import this file.
if __name__ == "__main__":
    with rule_log(snakemake.log):
        filter_records(
            snakemake.input.fasta,
            Criteria.from_config(snakemake.params.limits),
            catalog=snakemake.output.catalog,
            rejects=snakemake.output.rejects,
            members=snakemake.output.members,
            summary=snakemake.output.summary,
            release=snakemake.input.get("release"),
            reading=ReadSettings.from_config(
                {**snakemake.params.reading, "structure": snakemake.input.get("structure") or None}
            ),
            workers=snakemake.threads,
        )
