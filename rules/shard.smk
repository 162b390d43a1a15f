# One FASTA file per embed job, of equal predicted cost.


rule shard:
    input:
        catalog="results/catalog",
        splits="results/splits.parquet",
        summary="results/summaries/split.json",
        filter="results/summaries/filter.json",
        rejects=paths.later_rejects,
        reuse=paths.reuse_files,
    output:
        shards=paths.all_shards("results/shards/{split}/{shard}.fasta.gz"),
        summary="results/shards/shards.json",
    log:
        "results/logs/shard.log",
    benchmark:
        "results/benchmarks/shard.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=by_attempt_and_records(1500, 80),
        runtime=by_attempt(120),
    params:
        n_shards=config["shard"],
        cost=config["cost"],
    message:
        "Writing shards"
    script:
        "../scripts/shard.py"
