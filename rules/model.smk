# The model directory, where the configuration asks for random weights; real ones are put there beforehand.


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
