# One job per shard, on one GPU or one core. The parts are not declared: Snakemake would delete them with a failed job.


rule embed:
    input:
        fasta="results/shards/{split}/{shard}.fasta.gz",
        shards="results/shards/shards.json",
        summary="results/summaries/filter.json",
        config=paths.model_file("config.json"),
        weights=paths.weights,
        vocabulary=paths.vocabulary,
    output:
        manifest="results/embeddings/{model}/{split}/{shard}.json",
        metrics="results/metrics/{model}/{split}/{shard}.jsonl",
    log:
        "results/logs/embed/{model}/{split}/{shard}.log",
    benchmark:
        "results/benchmarks/embed/{model}/{split}/{shard}.tsv"
    conda:
        "../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=by_attempt_and_size(
            6000 + further_vectors_mb(config["embed"]),
            3,
            RESIDUES_MB if config["embed"]["per_residue"] else 0,
        ),
        runtime=by_attempt(240),
        gpu=0,
        attempt=by_attempt(1),
    params:
        embed=config["embed"],
        cost=config["cost"],
        config_sha256=config_sha256(config),
    message:
        "Embedding {wildcards.split} shard {wildcards.shard} with {wildcards.model}"
    script:
        "../scripts/embed.py"
