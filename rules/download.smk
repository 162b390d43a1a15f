# A release in UniProt's layout, made for the demo, or a file of any address. Needs the network: local rules.


rule make_demo:
    output:
        fasta="resources/demo/mirror/uniref50.fasta.gz",
        metalink="resources/demo/mirror/RELEASE.metalink",
        note="resources/demo/mirror/uniref50.release_note",
        families=FAMILIES,
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
        demo=rules.make_demo.output.metalink if paths.is_kind("demo") else [],
    output:
        sequences=f"{paths.release_folder}/{{database}}/{{database}}.{paths.file_format}.gz",
        release=f"{paths.release_folder}/{{database}}/release.json",
    log:
        "results/logs/download_{database}.log",
    benchmark:
        "results/benchmarks/download_{database}.tsv"
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        file_format=paths.file_format,
        release=paths.old_release,
    message:
        "Downloading {wildcards.database} and verifying size and checksum"
    script:
        "../scripts/download.py"


rule download_url:
    output:
        sequences="resources/url/{database}/sequences",
        release="resources/url/{database}/release.json",
    log:
        "results/logs/download_url_{database}.log",
    benchmark:
        "results/benchmarks/download_url_{database}.tsv"
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        url=config["source"]["url"],
        md5=config["source"]["md5"],
        sha256=config["source"]["sha256"],
    message:
        "Downloading {params.url}"
    script:
        "../scripts/download_url.py"
