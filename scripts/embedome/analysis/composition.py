"""Residues of the kept sequences, counted by split."""

import os
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from embedome.common.errors import UserError
from embedome.common.terms import SPLITS
from embedome.dataset.dataset import Dataset
from embedome.splits.split_table import read_split_catalog

LETTERS = [chr(code) for code in range(ord("A"), ord("Z") + 1)]


def count_residues(
    catalog: str | os.PathLike, splits: str | os.PathLike
) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Count sequences and residues of the catalog, a row group at a time.

    Parameters
    ----------
    catalog, splits : path
        What the filter and split stages wrote.

    Returns
    -------
    sequences : dict of str to int
        By split, duplicates among them.
    residues : dict of str to numpy.ndarray, dtype=int64, shape=(26,)
        By split: of each of `LETTERS`.

    Raises
    ------
    UserError
        Where the two files do not list the same ids.
    """
    sequences = dict.fromkeys(SPLITS, 0)
    residues = {split: np.zeros(len(LETTERS), np.int64) for split in SPLITS}
    for table, codes in read_split_catalog(catalog, splits, ["id", "sequence"]):
        for code, split in enumerate(SPLITS):
            mine = table["sequence"].filter(pa.array(codes == code)).combine_chunks()
            sequences[split] += len(mine)
            residues[split] += letter_totals(mine)
    return sequences, residues


def letter_totals(column: pa.LargeStringArray) -> np.ndarray:
    """Count each of `LETTERS` in n texts of nothing else, int64 [26]."""
    if not len(column):
        return np.zeros(len(LETTERS), np.int64)
    ends = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    text = np.frombuffer(column.buffers()[2], np.uint8)[ends[0] : ends[-1]]
    return np.bincount(text - ord("A"), minlength=len(LETTERS))


def check_sequences(data: Dataset, sequences: Mapping[str, int]) -> None:
    """Check that the data set is of the catalog whose sequences were counted.

    Raises
    ------
    UserError
        Where a split's rows and skipped sequences are not as many as the catalog's.
    """
    for split, about in data.manifest["splits"].items():
        ends = about["rows"] + sum(about["skipped"].values())
        if ends != sequences[split]:
            raise UserError(
                f"split {split}: {sequences[split]:,} sequences in the catalog, {ends:,} rows and skipped in the data "
                "set; files of different runs are mixed: rerun the workflow"
            )
