"""The commands `embedome describe`, `get` and `verify`."""

import argparse
from collections.abc import Mapping
from typing import Any

from embedome.cli.answer import Answer, count_files, describe_counts, table_lines
from embedome.cli.parser import Commands
from embedome.common.json_files import flatten_json
from embedome.common.parallel import available_cores

DATASET_HELP = "folder of a data set, or a file of `embedome embed`"
FILE_HELP = f"{DATASET_HELP}: .parquet, or .h5, .hdf5 and .npy as exported"


def add_dataset(commands: Commands) -> None:
    """Add the parsers of `describe`, `get` and `verify`."""
    describe = commands.add_parser(
        "describe",
        help="say what a data set or a file of vectors holds, and how it was made",
        examples=(
            "embedome describe vectors.parquet",
            "embedome describe vectors.h5",
            "embedome describe results/dataset/esm1nv-demo --json",
        ),
    )
    describe.add_argument("dataset", metavar="DATASET", help=FILE_HELP)
    describe.set_defaults(run=run_describe)
    get = commands.add_parser(
        "get",
        help="print vectors by id or accession, a line each: id and numbers, separated by tabs",
        examples=(
            "embedome get vectors.parquet P12345",
            "embedome get results/dataset/esm1nv-demo P12345 Q67890 --json",
        ),
    )
    get.add_argument("dataset", metavar="DATASET", help=DATASET_HELP)
    get.add_argument("ids", metavar="ID", nargs="+", help="an id, as in the FASTA header, or the accession in one")
    get.set_defaults(run=run_get)
    verify = commands.add_parser(
        "verify",
        help="check every file of a data set against its manifest, or a file of vectors in itself",
        description="Check every file of a data set against its manifest. A single Parquet file is checked against the "
        "checksums in it. Exported files have none: their shape, ids and numbers are checked.",
        examples=("embedome verify results/dataset/esm1nv-demo", "embedome verify vectors.parquet"),
    )
    verify.add_argument("dataset", metavar="DATASET", help=FILE_HELP)
    verify.set_defaults(run=run_verify)


def run_describe(options: argparse.Namespace) -> Answer:
    """Give what a data set says of itself."""
    from embedome.dataset.any_file import describe_any

    about = describe_any(options.dataset)
    return Answer(about, describe_lines(about))


def describe_lines(about: Mapping[str, Any]) -> list[str]:
    """Return a description as a table for people."""
    rows = [
        ("rows", f"{about['rows']:,}"),
        ("numbers of a vector", f"{about['dimension']:,}"),
        ("size", f"{about['bytes']:,} bytes in {count_files(about['files'])}"),
    ]
    for name, split in about.get("splits", {}).items():
        rows.append((f"split {name}", f"{split['rows']:,} rows: {describe_counts(split['states'])}"))
    if "skipped" in about:
        rows.append(("skipped sequences", f"{about['skipped']:,}"))
    rows += [(f"column {name}", kind) for name, kind in about.get("schema", {}).items()]
    made = flatten_json(about["provenance"] or {"provenance": "not in this file"}, " ")
    return table_lines([*rows, *((name, show(value)) for name, value in made.items())])


def show(value: Any) -> str:
    """Return a value of JSON as people write it."""
    if isinstance(value, Mapping):
        return " ".join(f"{name} {show(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(show, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return str(value) if value != "" else "''"


def run_get(options: argparse.Namespace) -> Answer:
    """Give vectors by id."""
    from embedome.dataset.open import open_dataset
    from embedome.parquet.vectors import vector_matrix

    data = open_dataset(options.dataset)
    rows = data.rows(options.ids, ["id", data.column()])
    names, vectors = rows["id"].to_pylist(), vector_matrix(rows[data.column()]).tolist()
    found = [{"id": name, "vector": vector} for name, vector in zip(names, vectors, strict=True)]
    return Answer(found, ("\t".join(map(str, (each["id"], *each["vector"]))) for each in found))


def run_verify(options: argparse.Namespace) -> Answer:
    """Check a data set or a file, and give what there is."""
    from embedome.dataset.any_file import verify_any

    found = verify_any(options.dataset, available_cores())
    size = f"{found['rows']:,} rows in {count_files(found['files'])}, {found['bytes']:,} bytes"
    return Answer(found, [f"{options.dataset}: sound, {size}"])
