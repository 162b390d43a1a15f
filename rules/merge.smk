# Every part verified and linked into the data set; then the account of the whole run.


rule merge:
    input:
        manifests=paths.all_shards(
            f"results/embeddings/{MODEL}/{{split}}/{{shard}}.json"
        ),
        filter="results/summaries/filter.json",
        split="results/summaries/split.json",
        shards="results/shards/shards.json",
        catalog="results/catalog",
        splits="results/splits.parquet",
        reuse=paths.reuse_files,
        earlier=paths.earlier_manifest,
    output:
        manifest=f"results/dataset/{MODEL}/_manifest.json",
    log:
        f"results/logs/merge_{MODEL}.log",
    benchmark:
        f"results/benchmarks/merge_{MODEL}.tsv"
    conda:
        "../envs/data.yaml"
    threads: 4
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(240),
    params:
        file_mb=config["merge"]["file_mb"],
        earlier=config["reuse"]["dataset"],
    message:
        "Verifying and merging the shards' parts"
    script:
        "../scripts/merge.py"


rule ledger:
    input:
        filter="results/summaries/filter.json",
        split="results/summaries/split.json",
        shards="results/shards/shards.json",
        manifests=paths.all_shards(
            f"results/embeddings/{MODEL}/{{split}}/{{shard}}.json"
        ),
        dataset=f"results/dataset/{MODEL}/_manifest.json",
    output:
        ledger="results/ledger.json",
    log:
        "results/logs/ledger.log",
    benchmark:
        "results/benchmarks/ledger.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=by_attempt(1000),
        runtime=by_attempt(30),
    message:
        "Adding up the ledger"
    script:
        "../scripts/ledger.py"
