"""The two stores that training reads, train and val: of a run's splits, or of FASTA files."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records
from embedome.catalog.table import check_catalog, count_rows, read_catalog
from embedome.common.atomic_files import scratch_directory
from embedome.common.counts import check_equal
from embedome.common.errors import UserError
from embedome.common.inputs import check_input
from embedome.common.json_files import file_sha256, read_json, write_json
from embedome.splits.split_methods import SplitSettings, hash_splits
from embedome.splits.split_table import write_splits
from embedome.training.store import (
    check_own_store,
    distinct,
    sequences_of_catalog,
    sequences_of_split,
    write_store,
)

TRAIN, VAL, INPUTS = "train", "val", "inputs.json"


def store_splits(
    catalog: str | os.PathLike, splits: str | os.PathLike, summary: str | os.PathLike, folder: str | os.PathLike
) -> None:
    """Write the stores of a run's splits train and val, or leave them where they are those of the same splits.

    Every distinct sequence of a split is in its store.

    Parameters
    ----------
    catalog, splits, summary : path
        What the filter and split stages wrote.
    folder : path
        For the two stores.

    Raises
    ------
    UserError
        Where a split is empty, or the files are not of one run.
    """
    account = read_json(summary)
    check_catalog(catalog, account.get("catalog_sha256"), summary)
    inputs, folder = {"catalog": account.get("catalog_sha256"), "splits": file_sha256(splits)}, Path(folder)
    if (folder / INPUTS).is_file() and read_json(folder / INPUTS) == inputs:
        return
    for split in (TRAIN, VAL):
        source = {"name": f"split {split}", "splits": {"method": account["method"], "seed": account["seed"]}}
        store = write_store(folder / split, sequences_of_split(catalog, splits, split), source)
        counts = account["splits"][split]
        distinct_rows = counts["sequences"] - counts["duplicates"]
        check_equal(f"distinct sequences of {split}", distinct_rows, "sequences in its store", len(store))
    write_json(folder / INPUTS, inputs)


def store_fasta(
    fasta: Sequence[str | os.PathLike], val: Sequence[str | os.PathLike] | float, folder: str | os.PathLike
) -> None:
    """Write the stores of FASTA files, or leave them where they are those of the same files.

    Parameters
    ----------
    fasta : sequence of paths
    val : sequence of paths, or float
        FASTA files of held-out sequences, which are left out of train; or the fraction that is held out, by a hash of
        the ids.
    folder : path
        For the two stores.

    Raises
    ------
    UserError
        As the filter stage; where nothing is left to train on or to hold out, or the folder is of other files.
    """
    folder = Path(folder)
    inputs = identify(fasta, val)
    if (folder / INPUTS).is_file():
        if read_json(folder / INPUTS) != inputs:
            raise UserError(f"{folder.parent}: a run on other files; go on with the same, or name another folder")
        return
    for name in (TRAIN, VAL):
        check_own_store(folder / name)
    with scratch_directory(folder) as scratch:
        catalog = filter_fasta(fasta, scratch / "all")
        if isinstance(val, float):
            hold_out_fraction(catalog, val, folder, scratch)
        else:
            apart(catalog, filter_fasta(val, scratch / "held-out"), folder)
    write_json(folder / INPUTS, inputs)


def identify(fasta: Sequence[str | os.PathLike], val: Sequence[str | os.PathLike] | float) -> dict[str, Any]:
    """Return the digests of files, and what is held out."""
    for path in (*fasta, *(() if isinstance(val, float) else val)):
        check_input(path, "a FASTA file")
    held_out = val if isinstance(val, float) else [file_sha256(path) for path in val]
    return {"fasta": [file_sha256(path) for path in fasta], "val": held_out}


def filter_fasta(fasta: Sequence[str | os.PathLike], scratch: Path) -> Path:
    """Return the catalog of FASTA files: sound records, duplicates marked."""
    scratch.mkdir()
    catalog = scratch / "catalog"
    filter_records(fasta, Criteria(), catalog=catalog, rejects=scratch / "rejects", summary=scratch / "summary")
    return catalog


def hold_out_fraction(catalog: Path, fraction: float, folder: Path, scratch: Path) -> None:
    """Write the stores of a catalog of which a fraction is held out."""
    plan = SplitSettings("hash", 0, fraction, 0)
    codes = hash_splits(catalog, {}, plan, np.zeros(count_rows(catalog), bool))
    write_splits(catalog, codes, scratch / "splits.parquet")
    for split in (TRAIN, VAL):
        name = {"name": f"--val {fraction}: {split}"}
        write_store(folder / split, sequences_of_split(catalog, scratch / "splits.parquet", split), name)


def apart(catalog: Path, held_out: Path, folder: Path) -> None:
    """Write the stores of two catalogs; what is in the second one is left out of the first."""
    digests = pa.concat_arrays([table["digest"].combine_chunks() for table in read_catalog(held_out, ["digest"])])
    write_store(folder / VAL, sequences_of_catalog(held_out), {"name": "--val"})
    write_store(folder / TRAIN, without(catalog, digests), {"name": "FASTA"})


def without(catalog: Path, digests: pa.Array) -> Iterator[pa.LargeStringArray]:
    """Return the distinct sequences of a catalog that do not have these digests."""
    for table in read_catalog(catalog, ["digest", "sequence", "duplicate_of"]):
        yield distinct(table.filter(pc.invert(pc.is_in(table["digest"], value_set=digests))))
