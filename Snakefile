# embedome: from a protein sequence database to a verified table of language-model embeddings.
include: "rules/workflow.smk"


rule all:
    default_target: True
    input:
        paths.targets,
