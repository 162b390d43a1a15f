# The model trained on a task by adapters (LoRA): an adapter, and a model directory that another run may embed with.
# What a job writes on the way is not declared: Snakemake would delete it with a failed job.


if config["finetune"]["task"]:

    rule finetune:
        input:
            config=paths.model_file("config.json"),
            weights=paths.weights,
            vocabulary=paths.vocabulary,
            data=paths.finetune_files,
        output:
            result=paths.finetuned,
        log:
            f"results/logs/finetune_{MODEL}.log",
        benchmark:
            f"results/benchmarks/finetune_{MODEL}.tsv"
        conda:
            "../envs/evaluate.yaml"
        threads: 1
        resources:
            mem_mb=by_attempt(12000),
            runtime=by_attempt(480),
            gpu=0,
        params:
            task=config["finetune"]["task"],
            data=config["finetune"]["data"],
            finetune=without(config["finetune"], "task", "data"),
            embed={
                key: config["embed"][key] for key in ("long_sequences", "max_residues")
            },
        message:
            "Fine-tuning the model on {params.task}"
        script:
            "../scripts/finetune.py"
