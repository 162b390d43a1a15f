"""The command `embedome export`."""

import argparse
from pathlib import Path

from embedome.cli.answer import Answer
from embedome.cli.parser import Commands
from embedome.common.errors import UserError

# What a name ends in, and the format that it stands for.
SUFFIXES = {".npy": "npy", ".h5": "hdf5", ".hdf5": "hdf5", ".h5ad": "h5ad", ".csv": "csv", ".tsv": "tsv"}
FORMATS = ("npy", "hdf5", "h5ad", "csv", "tsv", "parquet")


def add_export(commands: Commands) -> None:
    """Add the parser of `export`."""
    parser = commands.add_parser(
        "export",
        help="write a data set as a NumPy file, HDF5 like UniProt's, CSV, TSV, AnnData, or Parquet divided by a column",
        description="Write a data set in another form, which the name of OUT says. .npy: one float16 matrix, a row for "
        "each protein, and the ids, a line each, in <OUT stem>.ids.txt. .h5: a key for each protein, as in the files "
        "that UniProt publishes, with the id as its attribute original_id. .csv, .tsv: a line for each protein. .h5ad: "
        "AnnData. With --format parquet: the same rows and columns in a folder of files that are divided by one more "
        "column than the split.",
        examples=(
            "embedome export vectors.parquet vectors.h5",
            "embedome export results/dataset/esm1nv-demo train.npy --split train",
            "embedome export results/dataset/esm1nv-demo by-taxon --format parquet --partition-by taxid",
        ),
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder of a data set, or a file of `embedome embed`")
    parser.add_argument("out", metavar="OUT", type=Path, help="the file to write, of parquet a new folder")
    parser.add_argument("--format", choices=FORMATS, help="what to write (default: what the name of OUT ends in)")
    parser.add_argument("--split", metavar="NAME", help="only this split (default: all, one after the other)")
    parser.add_argument(
        "--pooling",
        metavar="NAME",
        help="which vectors: mean, max or first, of several layers e.g. layer_12_mean (default: the data set's first)",
    )
    parser.add_argument(
        "--per-residue",
        action="store_true",
        help="of hdf5: per-residue embeddings, in place of those of the proteins",
    )
    parser.add_argument(
        "--key",
        choices=("accession", "id", "number"),
        help="of hdf5: what the keys are: accessions of UniProtKB, of other ids the ids (default); ids; or numbers",
    )
    parser.add_argument("--partition-by", metavar="COLUMN", help="of parquet: the column, e.g. state or taxid")
    parser.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> Answer:
    """Export a data set."""
    form = choose_format(options.out, options.format)
    if options.per_residue and (form != "hdf5" or options.pooling):
        raise UserError("--per-residue goes with --format hdf5, and without --pooling")
    if options.key and form != "hdf5":
        raise UserError("--key goes with --format hdf5")
    if (form == "parquet") != bool(options.partition_by) or (options.partition_by and options.pooling):
        raise UserError("--partition-by goes with --format parquet, and without --pooling")
    chosen = {name: getattr(options, name) for name in ("split", "pooling", "per_residue", "key", "partition_by")}
    proteins = write_export(options.dataset, options.out, form, **chosen)
    return Answer(
        {"file": str(options.out), "format": form, "proteins": proteins}, [f"{options.out}: {proteins:,} proteins"]
    )


def choose_format(out: Path, said: str | None) -> str:
    """Return the format that is said, or that the name of the file ends in.

    Raises
    ------
    UserError
        Where neither is known.
    """
    if said is None and out.suffix.lower() not in SUFFIXES:
        known = f"expected a name that ends in {', '.join(SUFFIXES)}, or --format parquet and the name of a folder"
        what = "standard output takes no export" if str(out) == "-" else "cannot tell the format"
        raise UserError(f"{out}: {what}; {known}")
    return said or SUFFIXES[out.suffix.lower()]


def write_export(
    dataset: str | Path,
    out: Path,
    form: str,
    *,
    split: str | None = None,
    pooling: str | None = None,
    per_residue: bool = False,
    key: str | None = None,
    partition_by: str = "",
) -> int:
    """Write the file or the folder; return its proteins."""
    from embedome.dataset.export_anndata import export_anndata
    from embedome.dataset.export_arrays import export_hdf5, export_npy
    from embedome.dataset.export_partitions import export_partitions
    from embedome.dataset.export_text import export_text
    from embedome.dataset.open import open_dataset

    data = open_dataset(dataset)
    if form == "parquet":
        return export_partitions(data, out, partition_by, split)
    if form == "hdf5":
        return export_hdf5(data, out, split, pooling, per_residue, key or "accession")
    return {"npy": export_npy, "h5ad": export_anndata}.get(form, export_text)(data, out, split, pooling)
