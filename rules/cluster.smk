# Which sequences are alike, by MMseqs2; only where the split or a redundancy filter wants to know.


if uses_clusters(config):

    rule cluster:
        input:
            catalog="results/catalog",
            summary="results/summaries/filter.json",
        output:
            clusters="results/clusters.parquet",
            summary="results/summaries/cluster.json",
        log:
            "results/logs/cluster.log",
        benchmark:
            "results/benchmarks/cluster.tsv"
        conda:
            "../envs/cluster.yaml"
        threads: 16
        resources:
            mem_mb=by_attempt(32000),
            runtime=by_attempt(1440),
        params:
            plan=without(config["cluster"], "as"),
        message:
            "Clustering with MMseqs2 ({params.plan[method]})"
        script:
            "../scripts/cluster.py"
