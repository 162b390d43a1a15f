"""The catalog: the kept records, sorted by id, as Parquet files that any reader opens."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256, json_sha256
from embedome.common.outputs import check_own_folder
from embedome.common.terms import STRUCTURE
from embedome.parquet.id_lookup import find_rows
from embedome.parquet.reader import ParquetFile

CATALOG_GROUP_ROWS = 1 << 14
CATALOG_FILE_GROUPS = 64
CATALOG_NAMES = re.compile(r"part-\d{5}\.parquet")

CATALOG = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("n_members", pa.int32()),
        pa.field("taxid", pa.int32()),
        pa.field("taxon", pa.string()),
        pa.field("name", pa.string(), nullable=False),
        pa.field("representative", pa.string()),
        pa.field("description", pa.string(), nullable=False),
        pa.field("record", pa.int64(), nullable=False),
        pa.field("duplicate_of", pa.string()),
        pa.field("sequence", pa.large_string(), nullable=False),
    ]
)

# With the structure states of each sequence, one for each residue, as in `structures`.
CATALOG_WITH_STRUCTURE = CATALOG.append(pa.field(STRUCTURE, pa.large_string(), nullable=False))


def catalog_files(folder: str | os.PathLike) -> list[Path]:
    """List the catalog's files in id order.

    Raises
    ------
    UserError
        Where there are none.
    """
    files = sorted(Path(folder).glob("part-*.parquet"))
    if not files:
        raise UserError(f"{folder}: no catalog there; run the filter stage")
    return files


def check_own_catalog(folder: str | os.PathLike) -> None:
    """Refuse a folder that is no catalog, or holds something else too, before it is replaced."""
    check_own_folder(folder, CATALOG_NAMES, is_catalog)


def is_catalog(folder: Path) -> bool:
    """Return whether a folder's files have the columns of a catalog."""
    try:
        return all(
            {"id", "digest", "sequence"} <= {*ParquetFile(path).schema_arrow.names} for path in catalog_files(folder)
        )
    except UserError:
        return False


def count_rows(folder: str | os.PathLike) -> int:
    """Count the records of the catalog."""
    return sum(ParquetFile(path).metadata.num_rows for path in catalog_files(folder))


def catalog_sha256(folder: str | os.PathLike) -> str:
    """Digest the catalog's files."""
    return json_sha256([{"file": path.name, "sha256": file_sha256(path)} for path in catalog_files(folder)])


def recorded_catalog(account: Mapping[str, Any]) -> str | None:
    """Return the digest of the catalog, as `catalog_sha256`, that a filter's summary records; None in an old one."""
    return json_sha256(account["catalog"]) if "catalog" in account else None


def check_catalog(folder: str | os.PathLike, sha256: str | None, summary: str | os.PathLike) -> None:
    """Compare the catalog with the digest that an earlier stage recorded, where it did.

    Raises
    ------
    UserError
        Where it is another one.
    """
    if sha256 and catalog_sha256(folder) != sha256:
        raise UserError(f"{folder}: not the catalog of {summary}, or changed since; rerun the filter stage")


def has_structure(folder: str | os.PathLike) -> bool:
    """Return whether the catalog's sequences have structure states."""
    return STRUCTURE in ParquetFile(catalog_files(folder)[0]).schema_arrow.names


def read_catalog(folder: str | os.PathLike, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the named columns of the catalog, a row group at a time, in id order."""
    for path in catalog_files(folder):
        file = ParquetFile(path)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=list(columns), use_threads=False)


def read_sequences(folder: str | os.PathLike, ids: Sequence[str]) -> pa.LargeStringArray:
    """Read the sequences of some ids, in the order asked for; only row groups that may hold one are read.

    Parameters
    ----------
    folder : path
    ids : sequence of str
        Sorted.

    Raises
    ------
    UserError
        Where the catalog lacks one.
    """
    files = catalog_files(folder)
    found = pa.concat_tables([find_rows(path, ids, ["id", "sequence"]) for path in files])
    position = pc.index_in(pa.array(ids, pa.string()), value_set=found["id"])
    if position.null_count:
        name = ids[pc.indices_nonzero(pc.is_null(position))[0].as_py()]
        raise UserError(f"{folder}: no record has the id {name!r}; expected the catalog of the data set")
    return found["sequence"].combine_chunks().take(position)
