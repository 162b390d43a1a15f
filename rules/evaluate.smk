# What the model's vectors are worth: one job per task, and a table of all results, those of other models among them.
# What a job computes on the way is not declared: Snakemake would delete it with a failed job.


if config["evaluate"]["tasks"]:

    rule evaluate:
        input:
            config=paths.model_file("config.json"),
            weights=paths.weights,
            vocabulary=paths.vocabulary,
            data=lambda wildcards: paths.evaluation_files(wildcards.task),
        output:
            summary=f"{EVALUATION}/{MODEL}/{{task}}.json",
        log:
            f"results/logs/evaluate/{MODEL}/{{task}}.log",
        benchmark:
            f"results/benchmarks/evaluate/{MODEL}/{{task}}.tsv"
        conda:
            "../envs/evaluate.yaml"
        threads: 1
        resources:
            mem_mb=by_attempt(12000),
            runtime=by_attempt(480),
            gpu=0,
        params:
            task=lambda wildcards: paths.evaluated[wildcards.task],
            evaluate=without(config["evaluate"], "tasks"),
            embed={key: config["embed"][key] for key in OF_EMBED},
            pretraining=paths.pretraining,
        message:
            "Evaluating the vectors on {wildcards.task}"
        script:
            "../scripts/evaluate.py"

    rule evaluate_table:
        input:
            summaries=paths.evaluations,
        output:
            tsv=f"{EVALUATION}/table.tsv",
            parquet=paths.evaluation_table,
        log:
            f"results/logs/evaluate_table_{MODEL}.log",
        benchmark:
            f"results/benchmarks/evaluate_table_{MODEL}.tsv"
        localrule: True
        conda:
            "../envs/evaluate.yaml"
        message:
            "Joining the results of all tasks and models"
        script:
            "../scripts/evaluate_table.py"
