"""The command `embedome export`."""

import argparse
from pathlib import Path

from embedome.common.errors import UserError


def add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the parser of `export`."""
    parser = commands.add_parser(
        "export",
        help="write a data set as a NumPy file, as HDF5 like UniProt's, or as Parquet divided by a column",
        description="Write a data set in another form. npy: one float16 matrix, a row for each protein, and the ids, a "
        "line each, in <OUT stem>.ids.txt. hdf5: a key for each protein, as in the files that UniProt publishes: its "
        "accession where ids have UniProtKB's form (sp|P12345|NAME), else its id. parquet: the same rows and columns "
        "in a folder of files that are divided by one more column than the split.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder of a data set, or a file of `embedome embed`")
    parser.add_argument("out", metavar="OUT", type=Path, help="the file to write (.npy), of parquet a new folder")
    parser.add_argument("--format", choices=["npy", "hdf5", "parquet"], required=True, help="what to write")
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
    parser.add_argument("--partition-by", metavar="COLUMN", help="of parquet: the column, e.g. state or taxid")
    parser.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> None:
    """Export a data set."""
    from embedome.dataset.export_arrays import export_hdf5, export_npy
    from embedome.dataset.export_partitions import export_partitions
    from embedome.dataset.open import open_dataset

    if options.per_residue and (options.format != "hdf5" or options.pooling):
        raise UserError("--per-residue goes with --format hdf5, and without --pooling")
    if (options.format == "parquet") != bool(options.partition_by) or (options.partition_by and options.pooling):
        raise UserError("--partition-by goes with --format parquet, and without --pooling")
    data = open_dataset(options.dataset)
    if options.format == "npy":
        rows = export_npy(data, options.out, options.split, options.pooling)
    elif options.format == "parquet":
        rows = export_partitions(data, options.out, options.partition_by, options.split)
    else:
        rows = export_hdf5(data, options.out, options.split, options.pooling, options.per_residue)
    print(f"{options.out}: {rows:,} proteins")
