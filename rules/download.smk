# A release in UniProt's layout: made for the demo, fetched and verified in either case. Needs the network: local rules.


rule make_demo:
    output:
        fasta="resources/demo/mirror/uniref50.fasta.gz",
        metalink="resources/demo/mirror/RELEASE.metalink",
        note="resources/demo/mirror/uniref50.release_note",
        families="resources/demo/mirror/families.tsv.gz",
    log:
        "results/logs/make_demo.log",
    benchmark:
        "results/benchmarks/make_demo.tsv"
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        demo=config["demo"],
    message:
        "Making a demo release of {params.demo[sequences]} sequences"
    script:
        "../scripts/make_demo.py"


rule download:
    input:
        demo=rules.make_demo.output.metalink if is_kind("demo") else [],
    output:
        fasta=f"{source_folder()}/{{database}}/{{database}}.fasta.gz",
        release=f"{source_folder()}/{{database}}/release.json",
    log:
        "results/logs/download_{database}.log",
    benchmark:
        "results/benchmarks/download_{database}.tsv"
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        mirrors=config["source"]["mirrors"],
    message:
        "Downloading {wildcards.database} and verifying size and checksum"
    script:
        "../scripts/download.py"
