"""The sequences of a data set as one flat file of residues, mapped into memory: what training reads at random.

    residues.bin    one byte per residue, all sequences back to back
    offsets.bin     int64, little-endian: where each begins, and the end
    store.json      counts of sequences, residues and letters, SHA-256 of both files, and where the sequences are from

Sequences are in the order of the catalog, without duplicates. Tokens need not be stored: a residue is one byte.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.table import read_catalog
from embedome.common.atomic_files import atomic_directory
from embedome.common.errors import UserError
from embedome.common.json_files import json_sha256, json_text, read_json
from embedome.common.outputs import check_own_folder
from embedome.common.terms import SPLITS
from embedome.splits.split_table import read_split_catalog

RESIDUES, OFFSETS, ABOUT = "residues.bin", "offsets.bin", "store.json"
STORE_NAMES = re.compile(r"residues\.bin|offsets\.bin|store\.json")
FORMAT = "embedome residue store 1"
OFFSET_TYPE = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class Store:
    """Sequences, mapped into memory.

    Parameters
    ----------
    path : Path
    residues : numpy.ndarray, dtype=uint8, shape=(R,)
        Upper-case letters.
    offsets : numpy.ndarray, dtype=int64, shape=(n + 1,)
    letters : numpy.ndarray, dtype=int64, shape=(256,)
        How often each byte occurs.
    sha256 : str
        Of residues and offsets.
    source : dict
        Where they are from.
    """

    path: Path
    residues: np.ndarray
    offsets: np.ndarray
    letters: np.ndarray
    sha256: str
    source: dict[str, Any]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def identity(self) -> dict[str, Any]:
        """Return what the store is known by: digest, number of sequences, source."""
        return {"sha256": self.sha256, "sequences": len(self), "source": self.source}

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Residues of the sequences in these rows, int64."""
        return self.offsets[rows + 1] - self.offsets[rows]


def write_store(
    folder: str | os.PathLike, sequences: Iterable[pa.LargeStringArray], source: Mapping[str, Any]
) -> Store:
    """Write sequences as a store, whole or not at all, and open it.

    Parameters
    ----------
    folder : path
    sequences : iterable of pyarrow.LargeStringArray
        Upper-case letters, none empty.
    source : mapping
        Where they are from; kept in store.json.

    Raises
    ------
    UserError
        Where there is no sequence, or the folder is there already and is no store.
    """
    count, letters = 0, np.zeros(256, np.int64)
    digests = {name: hashlib.sha256() for name in (RESIDUES, OFFSETS)}
    with atomic_directory(folder, check_own_store) as temporary:
        with open(temporary / RESIDUES, "wb") as residues, open(temporary / OFFSETS, "wb") as offsets:

            def put(name: str, values: np.ndarray) -> None:
                (residues if name == RESIDUES else offsets).write(values.data)
                digests[name].update(values.data)

            put(OFFSETS, np.zeros(1, OFFSET_TYPE))
            for column in sequences:
                ends, text = read_texts(column)
                put(OFFSETS, (letters.sum() + ends).astype(OFFSET_TYPE))
                put(RESIDUES, text)
                letters += np.bincount(text, minlength=256)
                count += len(column)
        if not count:
            raise UserError(f"{source.get('name', folder)}: no sequence to train on; expected one or more")
        about = {
            "format": FORMAT,
            "sequences": count,
            "residues": int(letters.sum()),
            "letters": {chr(byte): int(letters[byte]) for byte in np.flatnonzero(letters)},
            "sha256": {name: digest.hexdigest() for name, digest in digests.items()},
            "source": dict(source),
        }
        (temporary / ABOUT).write_text(json_text(about), encoding="utf-8")
    return open_store(folder)


def read_texts(column: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """Where each text of an array ends, int64 [n], and all of them back to back, uint8."""
    offsets = np.frombuffer(column.buffers()[1], np.int64, len(column) + 1, 8 * column.offset)
    text = np.frombuffer(column.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    return offsets[1:] - offsets[0], text


def open_store(folder: str | os.PathLike) -> Store:
    """Map a store into memory.

    Raises
    ------
    UserError
        Where it is missing or not whole.
    """
    folder = Path(folder)
    about = read_json(folder / ABOUT)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{folder / ABOUT}: no store of residues; delete the folder and run again")
    sizes = {RESIDUES: about["residues"], OFFSETS: OFFSET_TYPE.itemsize * (about["sequences"] + 1)}
    for name, size in sizes.items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size:
            raise UserError(f"{folder / name}: not whole; delete the folder and run again")
    letters = np.zeros(256, np.int64)
    letters[[ord(letter) for letter in about["letters"]]] = list(about["letters"].values())
    return Store(
        folder,
        np.memmap(folder / RESIDUES, np.uint8, "r"),
        np.memmap(folder / OFFSETS, OFFSET_TYPE, "r"),
        letters,
        json_sha256(about["sha256"]),
        about["source"],
    )


def check_own_store(folder: str | os.PathLike) -> None:
    """Refuse a folder that is no store, or holds something else too, before it is replaced."""
    check_own_folder(folder, STORE_NAMES, lambda path: (path / ABOUT).is_file())


def sequences_of_split(
    catalog: str | os.PathLike, splits: str | os.PathLike, split: str
) -> Iterator[pa.LargeStringArray]:
    """Yield the distinct sequences of a split, in the order of the catalog.

    Raises
    ------
    UserError
        Where the two files do not list the same ids.
    """
    code = SPLITS.index(split)
    for table, codes in read_split_catalog(catalog, splits, ["id", "sequence", "duplicate_of"]):
        yield distinct(table.filter(pa.array(codes == code)))


def sequences_of_catalog(catalog: str | os.PathLike) -> Iterator[pa.LargeStringArray]:
    """Yield the distinct sequences of a catalog, in its order."""
    return map(distinct, read_catalog(catalog, ["sequence", "duplicate_of"]))


def distinct(table: pa.Table) -> pa.LargeStringArray:
    """Return the sequences of a catalog's rows that are no duplicates."""
    found = table.filter(pc.is_null(table["duplicate_of"]))["sequence"].combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays([pa.array([], pa.large_string()), *found.chunks])
