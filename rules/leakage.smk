# Held-out sequences searched against train with MMseqs2: reported, and train freed of what leaks, where asked for.


if drops_leaks(config):

    rule drop_leaks:
        input:
            catalog="results/catalog",
            filter="results/summaries/filter.json",
            splits=paths.drawn("splits.parquet"),
            summary=paths.drawn("summaries/split.json"),
        output:
            splits="results/splits.parquet",
            summary="results/summaries/split.json",
            rejects="results/rejects_leak.parquet",
        log:
            "results/logs/drop_leaks.log",
        benchmark:
            "results/benchmarks/drop_leaks.tsv"
        conda:
            "../envs/cluster.yaml"
        threads: 16
        resources:
            mem_mb=by_attempt(32000),
            runtime=by_attempt(1440),
        params:
            plan=without(config["leakage"], "measure", "drop_above"),
            drop_above=config["leakage"]["drop_above"],
        message:
            "Dropping train sequences like those of val and test (identity {params.drop_above} or above)"
        script:
            "../scripts/drop_leaks.py"


if config["leakage"]["measure"]:

    rule leakage:
        input:
            catalog="results/catalog",
            splits="results/splits.parquet",
        output:
            leakage="results/leakage.parquet",
            summary="results/summaries/leakage.json",
        log:
            "results/logs/leakage.log",
        benchmark:
            "results/benchmarks/leakage.tsv"
        conda:
            "../envs/cluster.yaml"
        threads: 16
        resources:
            mem_mb=by_attempt(32000),
            runtime=by_attempt(1440),
        params:
            plan=without(config["leakage"], "measure", "drop_above"),
        message:
            "Searching val and test against train"
        script:
            "../scripts/leakage.py"
