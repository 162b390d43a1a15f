# The model, trained on the split train. Its checkpoints are not declared: Snakemake would delete them with a failed job.


if config["model"]["pretrain"]:

    rule pretrain:
        input:
            catalog="results/catalog",
            splits="results/splits.parquet",
            summary="results/summaries/split.json",
        output:
            config=paths.model_file("config.json"),
            weights=paths.model_file("model.safetensors"),
            tokenizer=paths.model_file("tokenizer.json"),
            tokens=paths.model_file("tokenizer_config.json"),
            summary=paths.training,
        log:
            "results/logs/pretrain.log",
        benchmark:
            "results/benchmarks/pretrain.tsv"
        conda:
            "../envs/model.yaml"
        threads: config["model"]["pretrain"]["threads"] * config["model"]["pretrain"]["ranks"]
        resources:
            **resources_of_nodes(config["model"]["pretrain"]["nodes"]),
            mem_mb=by_attempt(8000),
            runtime=by_attempt(1440),
            gpu=0,
        params:
            name=MODEL,
            pretrain=config["model"]["pretrain"],
        message:
            "Pretraining {params.name} by the recipe {params.pretrain[recipe]}"
        script:
            "../scripts/pretrain.py"
