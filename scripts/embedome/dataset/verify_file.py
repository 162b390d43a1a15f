"""Checking the Parquet file of `embedome embed`, and its per-residue embeddings, against what it says of itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.errors import UserError
from embedome.common.log import Progress
from embedome.common.terms import DUPLICATE, EMBEDDED, TRUNCATED, WINDOWED
from embedome.dataset.format import RESIDUE_GROUP_ROWS, find_vector_names, residue_schema
from embedome.dataset.part_file import PartInfo, has_residues, iter_rows, part_info, residues_path, vectors_finite
from embedome.dataset.provenance import lasting
from embedome.parquet.file_format import FILE_FORMAT, read_about
from embedome.parquet.reader import ParquetFile
from embedome.parquet.vectors import finite_rows, vector_matrix

STATES = (EMBEDDED, TRUNCATED, WINDOWED, DUPLICATE)


def verify_file(path: Path) -> dict[str, Any]:
    """Check that a file's pages have their checksums, and that its rows are such as embedome writes.

    Returns
    -------
    dict
        As of `verify.verify_dataset`.

    Raises
    ------
    UserError
        Names the file, and the first thing that is wrong with it.
    """
    info = part_info(path)
    last = None
    with Progress("verify", "rows", info.rows) as progress:
        for batch in iter_rows(path, info.schema.names):
            table = pa.Table.from_batches([batch])
            check_rows(path, table, info, last)
            last = table["id"][-1].as_py()
            progress.update(len(table))
    files = [path]
    if has_residues(path, info):
        verify_residues(path, info)
        files.append(residues_path(path))
    size = sum(each.stat().st_size for each in files)
    return {"format": FILE_FORMAT, "rows": info.rows, "files": len(files), "bytes": size}


def fault(path: Path, what: str) -> UserError:
    """Return the error that says what is wrong with a file, and what to do."""
    return UserError(f"{path}: {what}; restore it from a copy, or embed again")


def check_rows(path: Path, table: pa.Table, info: PartInfo, last: str | None) -> None:
    """Check some rows; `last` is the id before them."""
    ids = table["id"].combine_chunks()
    if (last is not None and ids[0].as_py() <= last) or not is_ascending(ids):
        raise fault(path, "its ids are out of order, or one is there twice")
    if not pc.all(pc.is_in(table["state"], value_set=pa.array(STATES))).as_py():
        raise fault(path, f"a state is none of {', '.join(STATES)}")
    used = table["n_residues_used"]
    if not pc.all(pc.and_(pc.greater(used, 0), pc.less_equal(used, table["length"]))).as_py():
        raise fault(path, "more residues of a sequence are used than it has, or none")
    if not vectors_finite(table, find_vector_names(info.provenance)):
        raise fault(path, "a vector is not finite")


def is_ascending(ids: pa.Array) -> bool:
    """Return whether each id is larger than the one before it."""
    return pc.all(pc.less(ids[:-1], ids[1:]), min_count=0).as_py()


def verify_residues(path: Path, info: PartInfo) -> None:
    """Check the file of per-residue embeddings: a row for each sequence but duplicates, a vector for each residue used.

    Raises
    ------
    UserError
    """
    residues = residues_path(path)
    file = ParquetFile(residues)
    about = read_about(residues, file.metadata.metadata)
    if about is None or file.schema_arrow.remove_metadata() != residue_schema(info.dimension):
        raise fault(residues, f"not the per-residue embeddings of {path.name}")
    if lasting(about.get("provenance", {})) != lasting(info.provenance):
        raise fault(residues, f"made in another way than {path.name}")
    expected = expected_lengths(path)
    for batch in file.iter_batches(RESIDUE_GROUP_ROWS, use_threads=False):
        for name, states in zip(batch["id"].to_pylist(), batch["residue_embeddings"], strict=True):
            if (name, len(states)) != next(expected, None):
                raise fault(residues, f"{name!r}: not the next sequence of {path.name}, or not of its residues")
            if not finite_rows(vector_matrix(states.values)).all():
                raise fault(residues, f"{name!r}: a vector is not finite")
    if (missing := next(expected, None)) is not None:
        raise fault(residues, f"{missing[0]!r} of {path.name} is missing")


def expected_lengths(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the ids of a file that are no duplicates, each with its number of residues used."""
    for batch in iter_rows(path, ["id", "state", "n_residues_used"]):
        kept = batch.filter(pc.not_equal(batch["state"], DUPLICATE))
        yield from zip(kept["id"].to_pylist(), kept["n_residues_used"].to_pylist(), strict=True)
