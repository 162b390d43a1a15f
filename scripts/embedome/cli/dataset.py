"""The commands `embedome describe`, `get` and `verify`."""

import argparse
import json

from embedome.common.parallel import available_cores


def add_dataset(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the parsers of `describe`, `get` and `verify`."""
    describe = commands.add_parser("describe", help="print a data set's counts, schema, size and provenance as JSON")
    describe.add_argument("dataset", metavar="DATASET", help="folder of a data set, or a file of `embedome embed`")
    describe.set_defaults(run=run_describe)
    get = commands.add_parser(
        "get", help="print vectors by id or accession, a line each: id and numbers, separated by tabs"
    )
    get.add_argument("dataset", metavar="DATASET", help="folder of a data set, or a file of `embedome embed`")
    get.add_argument("ids", metavar="ID", nargs="+", help="an id, as in the FASTA header, or the accession in one")
    get.set_defaults(run=run_get)
    verify = commands.add_parser("verify", help="check every file of a data set against its manifest")
    verify.add_argument("dataset", metavar="DATASET", help="folder of a data set")
    verify.set_defaults(run=run_verify)


def run_describe(options: argparse.Namespace) -> None:
    """Print what a data set says of itself."""
    from embedome.dataset.open import open_dataset

    print(json.dumps(open_dataset(options.dataset).describe(), indent=2, ensure_ascii=False))


def run_get(options: argparse.Namespace) -> None:
    """Print vectors by id."""
    from embedome.dataset.open import open_dataset
    from embedome.parquet.vectors import vector_matrix

    data = open_dataset(options.dataset)
    rows = data.rows(options.ids, ["id", data.column()])
    for name, vector in zip(rows["id"].to_pylist(), vector_matrix(rows[data.column()]), strict=True):
        print(name, *vector.tolist(), sep="\t")


def run_verify(options: argparse.Namespace) -> None:
    """Check a data set, and print what there is."""
    from embedome.dataset.verify import verify_dataset

    print(f"{options.dataset}: {json.dumps(verify_dataset(options.dataset, available_cores()))}")
