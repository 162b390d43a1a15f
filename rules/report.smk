# Numbers about the data set, and the plots and tables of `snakemake --report`.

ANALYSIS = f"results/analysis/{MODEL}"
REPORT = f"results/report/{MODEL}"
# By category: the files' names, and what the report calls them.
PLOTS = {
    "Run": {"flow": "What became of every record"},
    "Sequences": {"lengths": "Lengths", "composition": "Residues"},
    "Embeddings": {
        "norms": "Norms",
        "spectrum": "Variance by component",
        "pca": "Principal components",
        "umap": "Map (UMAP)",
        "neighbours": "Nearest neighbours",
    },
    "Splits": {"drift": "Drift from train"},
}


# On the report's first page, in this order: figures with their headings, and with the texts that are their captions.
SHOWN = {
    **{name: label for names in PLOTS.values() for name, label in names.items()},
    **({"training": "Training of the model"} if paths.training else {}),
    **({"evaluation": "Evaluation"} if paths.evaluation_table else {}),
}


rule analyse:
    input:
        dataset=f"results/dataset/{MODEL}/_manifest.json",
        catalog="results/catalog",
        splits="results/splits.parquet",
        families=paths.families,
    output:
        statistics=f"{ANALYSIS}/statistics.json",
        tables=expand(
            f"{ANALYSIS}/{{table}}.parquet",
            table=[
                "lengths",
                "composition",
                "norms",
                "dimensions",
                "components",
                "sample",
            ],
        ),
    log:
        f"results/logs/analyse_{MODEL}.log",
    benchmark:
        f"results/benchmarks/analyse_{MODEL}.tsv"
    conda:
        "../envs/report.yaml"
    threads: 2
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(480),
    params:
        samples=config["report"],
    message:
        "Analysing the data set"
    script:
        "../scripts/analyse.py"


rule report:
    input:
        statistics=rules.analyse.output.statistics,
        tables=rules.analyse.output.tables,
        ledger="results/ledger.json",
        leakage=paths.leakage,
        training=paths.training,
        evaluation=paths.evaluation_table,
        annotation=paths.annotated_parts,
    output:
        table=f"{REPORT}/ledger.tsv",
        ledger=report(
            f"{REPORT}/ledger.html",
            category="Run",
            labels={"what": "Ledger"},
            caption="../docs/report/ledger.rst",
        ),
        provenance=report(
            f"{REPORT}/provenance.html",
            category="Run",
            labels={"what": "Provenance"},
            caption="../docs/report/provenance.rst",
        ),
        map=report(
            f"{REPORT}/map.html",
            category="Embeddings",
            labels={"what": "Interactive map"},
            caption="../docs/report/map.rst",
        ),
        numbers=report(
            f"{REPORT}/numbers.html",
            category="Run",
            labels={"what": "All numbers"},
            caption="../docs/report/numbers.rst",
        ),
        leakage=(
            report(
                f"{REPORT}/leakage.html",
                category="Splits",
                labels={"what": "Leakage"},
                caption="../docs/report/leakage.rst",
            )
            if paths.leakage
            else []
        ),
        training=[
            report(
                f"{REPORT}/training.{kind}",
                category="Model",
                labels={"what": label},
                caption="../docs/report/training.rst",
            )
            for kind, label in {"svg": "Training", "html": "Training, numbers"}.items()
            if paths.training
        ],
        evaluation=[
            report(
                f"{REPORT}/evaluation.{kind}",
                category="Model",
                labels={"what": label},
                caption="../docs/report/evaluation.rst",
            )
            for kind, label in {
                "svg": "Evaluation",
                "html": "Evaluation, numbers",
            }.items()
            if paths.evaluation_table
        ],
        plots=[
            report(
                f"{REPORT}/{name}.svg",
                category=category,
                labels={"what": label},
                caption=f"../docs/report/{name}.rst",
            )
            for category, names in PLOTS.items()
            for name, label in names.items()
        ],
    log:
        f"results/logs/report_{MODEL}.log",
    benchmark:
        f"results/benchmarks/report_{MODEL}.tsv"
    conda:
        "../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(30),
    params:
        pca_sequences=config["report"]["pca_sequences"],
    message:
        "Drawing the report's plots"
    script:
        "../scripts/report.py"


# Not one of the report's inputs: run times differ from run to run, and all else is the same, byte for byte.
rule runtimes:
    input:
        rules.report.output,
        paths.annotation,
    output:
        table=f"results/runtimes/{MODEL}.tsv",
        page=report(
            f"results/runtimes/{MODEL}.html",
            category="Run",
            labels={"what": "Run times"},
            caption="../docs/report/runtimes.rst",
        ),
    log:
        f"results/logs/runtimes_{MODEL}.log",
    benchmark:
        f"results/benchmarks/runtimes_{MODEL}.tsv"
    localrule: True
    conda:
        "../envs/data.yaml"
    params:
        benchmarks=run_benchmarks,
    message:
        "Adding up the rules' run times"
    script:
        "../scripts/runtimes.py"


# Beside run times, as it has the time, too. It is the text of the report's first page (docs/report/workflow.rst).
rule overview:
    input:
        figures=[f"{REPORT}/{name}.svg" for name in SHOWN],
        statistics=rules.analyse.output.statistics,
        ledger="results/ledger.json",
        leakage=paths.leakage,
        runtimes=rules.runtimes.output.table,
    output:
        page=report(
            f"results/overview/{MODEL}.html",
            category="Overview",
            labels={"what": "The run at a glance"},
            caption="../docs/report/overview.rst",
        ),
    log:
        f"results/logs/overview_{MODEL}.log",
    benchmark:
        f"results/benchmarks/overview_{MODEL}.tsv"
    localrule: True
    conda:
        "../envs/report.yaml"
    params:
        captions={
            name: (
                label,
                Path(workflow.source_path(f"../docs/report/{name}.rst")).read_text(
                    encoding="utf-8"
                ),
            )
            for name, label in SHOWN.items()
        },
    message:
        "Writing the report's first page"
    script:
        "../scripts/overview.py"
