# val, test and train.


rule split:
    input:
        catalog="results/catalog",
        summary="results/summaries/filter.json",
    output:
        splits="results/splits.parquet",
        summary="results/summaries/split.json",
    log:
        "results/logs/split.log",
    benchmark:
        "results/benchmarks/split.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(60),
    params:
        plan=config["split"],
    message:
        "Splitting into val, test and train ({params.plan[method]})"
    script:
        "../scripts/split.py"
