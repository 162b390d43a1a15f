"""Rule annotate_lookup."""

from pathlib import Path

from embedome.annotation.build_reference import build_reference
from embedome.annotation.reference_set import settings_of, source_of
from embedome.common.log import rule_log

with rule_log(snakemake.log):
    build_reference(
        Path(snakemake.input.dataset).parent,
        source_of(snakemake.params.annotate),
        Path(snakemake.output.lookup).parent,
        settings_of(snakemake.params.annotate),
        catalog=snakemake.input.get("catalog"),
        threads=snakemake.threads,
    )
