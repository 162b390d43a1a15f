# Which sequences have a vector in an earlier data set, where the configuration names one.


if config["reuse"]["dataset"]:

    rule reuse:
        input:
            catalog="results/catalog",
            filter="results/summaries/filter.json",
            earlier=paths.earlier_manifest,
        output:
            reused="results/reused.parquet",
            summary="results/summaries/reuse.json",
        log:
            "results/logs/reuse.log",
        benchmark:
            "results/benchmarks/reuse.tsv"
        conda:
            "../envs/data.yaml"
        threads: 1
        resources:
            mem_mb=by_attempt_and_records(1500, 100),
            runtime=by_attempt(120),
        message:
            "Looking up sequences in {input.earlier}"
        script:
            "../scripts/reuse.py"
