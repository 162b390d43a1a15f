# val, test and train.


rule split:
    input:
        catalog="results/catalog",
        filter="results/summaries/filter.json",
        clusters="results/clusters.parquet" if uses_clusters(config) else [],
    output:
        **(
            {"rejects": "results/rejects_redundant.parquet"}
            if paths.is_redundancy_filter
            else {}
        ),
        splits=paths.drawn("splits.parquet"),
        summary=paths.drawn("summaries/split.json"),
    log:
        "results/logs/split.log",
    benchmark:
        "results/benchmarks/split.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=by_attempt_and_records(1500, 80),
        runtime=by_attempt(60),
    params:
        plan=config["split"],
        # Not read: whether redundant records are rejected is a reason to split again.
        clusters=config["cluster"]["as"],
    message:
        "Splitting into val, test and train ({params.plan[method]})"
    script:
        "../scripts/split.py"
