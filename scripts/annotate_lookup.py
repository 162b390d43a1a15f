"""Rule annotate_lookup."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedome.annotation.build_reference import build_reference
from embedome.annotation.labels import LabelSource
from embedome.annotation.reference_set import AnnotateSettings
from embedome.common.log import rule_log

if TYPE_CHECKING:
    from embedome.workflow.job import snakemake

with rule_log(snakemake.log):
    build_reference(
        Path(snakemake.input.dataset).parent,
        LabelSource.from_config(snakemake.params.annotate),
        Path(snakemake.output.lookup).parent,
        AnnotateSettings.from_config(snakemake.params.annotate),
        catalog=snakemake.input.get("catalog"),
        threads=snakemake.threads,
    )
