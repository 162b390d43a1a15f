# FASTA or UniRef XML in, a catalog sorted by id out; every rejected record with its reason.


rule filter:
    input:
        fasta=paths.sequence_files,
        release=paths.release,
        taxonomy=paths.named(config["filter"]["taxonomy"]),
        structure=paths.named(config["source"]["structure"]),
    output:
        catalog=directory("results/catalog"),
        rejects="results/rejects.parquet",
        members="results/members.parquet",
        summary="results/summaries/filter.json",
    log:
        "results/logs/filter.log",
    benchmark:
        "results/benchmarks/filter.tsv"
    conda:
        "../envs/data.yaml"
    threads: 4
    resources:
        mem_mb=by_attempt_and_size(3000, 0.25),
        runtime=by_attempt(240),
    params:
        limits=config["filter"],
        reading=paths.reading,
    message:
        "Filtering records"
    script:
        "../scripts/filter.py"
