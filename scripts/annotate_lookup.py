"""Rule annotate_lookup."""

from pathlib import Path

from embedome.common.log import rule_log
from embedome.lookup_build import build_lookup
from embedome.lookup_set import settings_of, source_of

with rule_log(snakemake.log):
    build_lookup(
        Path(snakemake.input.dataset).parent,
        source_of(snakemake.params.annotate),
        Path(snakemake.output.lookup).parent,
        settings_of(snakemake.params.annotate),
        catalog=snakemake.input.get("catalog"),
        threads=snakemake.threads,
    )
