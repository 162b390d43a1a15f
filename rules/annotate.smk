# Labels of annotated proteins carried over to all others: the reference set, one job per shard, and their sum.

ANNOTATION = f"results/annotation/{MODEL}"


if config["annotate"]["labels"]:

    rule annotate_lookup:
        input:
            dataset=f"results/dataset/{MODEL}/_manifest.json",
            labels=paths.named(config["annotate"]["labels"]),
            ontology=paths.named(config["annotate"]["ontology"]),
            catalog=paths.sequences_to_compare,
        output:
            lookup=f"{ANNOTATION}/_lookup/lookup.json",
            rows=f"{ANNOTATION}/_lookup/rows.parquet",
            labels=f"{ANNOTATION}/_lookup/labels.parquet",
            held_out=f"{ANNOTATION}/_lookup/held_out.parquet",
            vectors=f"{ANNOTATION}/_lookup/vectors.npy",
            index=f"{ANNOTATION}/_lookup/index.faiss",
        log:
            f"results/logs/annotate_lookup_{MODEL}.log",
        benchmark:
            f"results/benchmarks/annotate_lookup_{MODEL}.tsv"
        conda:
            "../envs/annotate.yaml"
        threads: 4
        resources:
            mem_mb=by_attempt(8000),
            runtime=by_attempt(240),
        params:
            annotate=config["annotate"],
        message:
            "Gathering and indexing the annotated proteins"
        script:
            "../scripts/annotate_lookup.py"

    rule annotate:
        input:
            dataset=f"results/dataset/{MODEL}/_manifest.json",
            lookup=rules.annotate_lookup.output.lookup,
            index=rules.annotate_lookup.output.index,
            rows=rules.annotate_lookup.output.rows,
            catalog=paths.sequences_to_compare,
        output:
            labels=f"{ANNOTATION}/split={{split}}/part-{{shard}}.parquet",
        log:
            f"results/logs/annotate/{MODEL}/{{split}}/{{shard}}.log",
        benchmark:
            f"results/benchmarks/annotate/{MODEL}/{{split}}/{{shard}}.tsv"
        conda:
            "../envs/annotate.yaml"
        threads: 2
        resources:
            mem_mb=by_attempt_and_size(2000, 3),
            runtime=by_attempt(240),
        params:
            shards=lambda wildcards: config["shard"][wildcards.split],
        message:
            "Annotating {wildcards.split} shard {wildcards.shard}"
        script:
            "../scripts/annotate.py"

    rule annotate_summary:
        input:
            dataset=f"results/dataset/{MODEL}/_manifest.json",
            lookup=rules.annotate_lookup.output.lookup,
            labels=paths.all_shards(
                f"{ANNOTATION}/split={{split}}/part-{{shard}}.parquet"
            ),
        output:
            summary=f"{ANNOTATION}/_summary.json",
        log:
            f"results/logs/annotate_summary_{MODEL}.log",
        benchmark:
            f"results/benchmarks/annotate_summary_{MODEL}.tsv"
        conda:
            "../envs/annotate.yaml"
        threads: 1
        resources:
            mem_mb=by_attempt(4000),
            runtime=by_attempt(60),
        message:
            "Adding up and scoring the annotation"
        script:
            "../scripts/annotate_summary.py"
