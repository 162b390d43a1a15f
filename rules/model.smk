# The model directory, where the configuration asks for random weights, or for a model of the Hugging Face Hub; others
# are put there beforehand.


if config["model"]["untrained"]:

    rule make_model:
        output:
            config=paths.model_file("config.json"),
            weights=paths.model_file("model.safetensors"),
            tokenizer=paths.model_file("tokenizer.json"),
            tokens=paths.model_file("tokenizer_config.json"),
        log:
            "results/logs/make_model.log",
        benchmark:
            "results/benchmarks/make_model.tsv"
        localrule: True
        conda:
            "../envs/model.yaml"
        params:
            name=MODEL,
            untrained=paths.untrained_model,
        message:
            "Making an untrained model, {params.name}"
        script:
            "../scripts/make_model.py"


if config["model"]["hub"]:

    # On the machine where Snakemake runs, as others may have no network. The directory is put in place whole, so that its
    # config.json stands for all files, whose names are not known before.
    rule fetch_model:
        output:
            config=paths.model_file("config.json"),
        log:
            "results/logs/fetch_model.log",
        benchmark:
            "results/benchmarks/fetch_model.tsv"
        localrule: True
        conda:
            "../envs/model.yaml"
        params:
            model=paths.hub_model,
        message:
            "Fetching {params.model[name]} from the Hugging Face Hub"
        script:
            "../scripts/fetch_model.py"
