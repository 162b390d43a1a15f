# embedome: from a protein sequence database to a verified table of language-model embeddings.
from snakemake.utils import min_version

min_version("9.20")


configfile: workflow.source_path("config.yaml")


# The text on a report's first page, unless it is that of a workflow which uses this one as a module.
if workflow.modifier.is_main_snakefile():

    report: "docs/report/workflow.rst"


include: "rules/common.smk"
include: "rules/download.smk"
include: "rules/filter.smk"
include: "rules/cluster.smk"
include: "rules/split.smk"
include: "rules/leakage.smk"
include: "rules/reuse.smk"
include: "rules/shard.smk"
include: "rules/model.smk"
include: "rules/pretrain.smk"
include: "rules/embed.smk"
include: "rules/merge.smk"
include: "rules/report.smk"
include: "rules/annotate.smk"
include: "rules/evaluate.smk"
include: "rules/finetune.smk"


rule all:
    default_target: True
    input:
        paths.targets,
