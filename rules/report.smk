# Statistics and plots of the data set, for `snakemake --report`.

REPORT_FILES = ["ledger.tsv", "lengths.svg", "pca.svg", "statistics.json"]


rule report:
    input:
        dataset=f"results/dataset/{MODEL}/_manifest.json",
        ledger="results/ledger.json",
        families=families(),
    output:
        ledger=report(
            f"results/report/{MODEL}/ledger.tsv",
            category="Ledger",
            caption="../docs/report/ledger.rst",
        ),
        lengths=report(
            f"results/report/{MODEL}/lengths.svg",
            category="Sequences",
            caption="../docs/report/lengths.rst",
        ),
        pca=report(
            f"results/report/{MODEL}/pca.svg",
            category="Embeddings",
            caption="../docs/report/pca.rst",
        ),
        statistics=report(
            f"results/report/{MODEL}/statistics.json",
            category="Embeddings",
            caption="../docs/report/statistics.rst",
        ),
    log:
        f"results/logs/report_{MODEL}.log",
    benchmark:
        f"results/benchmarks/report_{MODEL}.tsv"
    conda:
        "../envs/report.yaml"
    threads: 2
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(120),
    params:
        dask=config["dask"],
        pca_sequences=config["report"]["pca_sequences"],
    message:
        "Drawing the report's plots"
    script:
        "../scripts/report.py"
