# The workflow but for its target: the configuration, and the rules stage by stage.
from snakemake.utils import min_version

min_version("9.20")


configfile: workflow.source_path("../config.yaml")


# The text on a report's first page, unless it is that of a workflow which uses this one as a module.
if workflow.modifier.is_main_snakefile():

    report: "../docs/report/workflow.rst"


include: "common.smk"
include: "download.smk"
include: "filter.smk"
include: "cluster.smk"
include: "split.smk"
include: "leakage.smk"
include: "reuse.smk"
include: "shard.smk"
include: "model.smk"
include: "pretrain.smk"
include: "embed.smk"
include: "merge.smk"
include: "report.smk"
include: "annotate.smk"
include: "evaluate.smk"
include: "finetune.smk"
