"""One embedding file: written, and what its footer says."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from embedome.common.atomic_files import atomic_path
from embedome.common.digested_file import DigestedFile
from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256
from embedome.dataset.format import (
    COLUMN_OPTIONS,
    RESIDUE_GROUP_ROWS,
    embedding_metadata,
    embedding_schema,
    find_vector_names,
    residue_schema,
    vector_columns,
)
from embedome.parquet.file_format import FILE_FORMAT, METADATA_KEY, read_about
from embedome.parquet.reader import ParquetFile
from embedome.parquet.vectors import GROUP_ROWS, finite_rows, vector_matrix
from embedome.parquet.writer import ParquetSink


def vectors_finite(table: pa.Table, names: Sequence[str]) -> bool:
    """Return whether all vectors of these names are finite."""
    columns = vector_columns(names).values()
    return all(finite_rows(vector_matrix(chunk)).all() for column in columns for chunk in table[column].chunks)


def embedding_sink(path: str | os.PathLike, schema: pa.Schema) -> ParquetSink:
    """Open an embedding file for writing."""
    return ParquetSink(path, schema, GROUP_ROWS, **COLUMN_OPTIONS)


def residue_sink(path: str | os.PathLike | DigestedFile, dimension: int) -> ParquetSink:
    """Open a file of per-residue embeddings for writing."""
    # A sequence's vectors at once: 1.2 to 3.5 times as fast as a row group's (docs/performance.md).
    return ParquetSink(
        path, residue_schema(dimension), RESIDUE_GROUP_ROWS, 1, use_dictionary=False, write_statistics=["id"]
    )


def residues_path(part: Path) -> Path:
    """Return the path of a part's per-residue embeddings."""
    return part.with_suffix(".residues.parquet")


def never() -> bool:
    """Return that no other job has written the file."""
    return False


@contextmanager
def new_file(path: Path, already_written: Callable[[], bool] = never) -> Iterator[Path]:
    """As `atomic_files.atomic_path`; but a file that another job has written by the end of the block stays.

    An older or damaged file of that name is replaced, so a link that fails where there is a file would not do.
    """
    with atomic_path(path) as temporary:
        yield temporary
        if already_written():
            # Where it finds nothing to publish but a file of that name, `atomic_path` leaves it alone.
            temporary.unlink(missing_ok=True)


def write_part(
    path: Path, table: pa.Table, metadata: Mapping[bytes, bytes], already_written: Callable[[], bool] = never
) -> None:
    """Write a part file atomically: rows in id order, the rest in the metadata; `already_written` as in `new_file`."""
    with new_file(path, already_written) as temporary, embedding_sink(temporary, table.schema) as sink:
        sink.write(table)
        sink.describe(metadata)


def write_residues(
    path: Path, table: pa.Table, provenance: Mapping[str, Any], already_written: Callable[[], bool] = never
) -> str:
    """Write a part's per-residue embeddings atomically, rows in id order; return the file's SHA-256.

    `already_written` is as in `new_file`: the digest is that of the file that is at `path` afterwards.
    """
    dimension = table.schema.field("residue_embeddings").type.value_type.list_size
    with new_file(path, already_written) as temporary:
        with open(temporary, "wb") as handle:
            file = DigestedFile(handle)
            with residue_sink(file, dimension) as sink:
                sink.write(table)
                sink.describe(embedding_metadata(provenance))
        written = file_identity(temporary)
    return file.sha256.hexdigest() if file_identity(path) == written else file_sha256(path)


def file_identity(path: Path) -> tuple[int, ...]:
    """Return what distinguishes a file from any other, whatever its name."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True, slots=True)
class PartInfo:
    """What a part file says of itself in its footer."""

    rows: int
    dimension: int
    fingerprint: str | None
    provenance: dict[str, Any]
    skipped: list[dict[str, Any]]
    recomputed: list[str]
    residues_sha256: str | None

    @property
    def schema(self) -> pa.Schema:
        """Schema of its rows."""
        return embedding_schema(self.dimension, find_vector_names(self.provenance))


def part_info(path: str | os.PathLike) -> PartInfo:
    """Read a part file's footer.

    Raises
    ------
    UserError
        Where the file is missing, damaged, not an embedding file, or of another format version.
    """
    file = ParquetFile(path)
    about = read_about(path, file.metadata.metadata)
    if about is None or "embedding" not in file.schema_arrow.names:
        raise UserError(f"{path}: not an embedome embedding file")
    try:
        dimension = file.schema_arrow.field("embedding").type.list_size
        info = PartInfo(file.metadata.num_rows, dimension, *(about[field.name] for field in fields(PartInfo)[2:]))
        schema = info.schema
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{path}: damaged (its metadata lacks what was written); restore it from a copy") from None
    if file.schema_arrow.remove_metadata() != schema:
        raise UserError(f"{path}: its columns are not those of format {FILE_FORMAT}")
    return info


def has_residues(path: Path, info: PartInfo) -> bool:
    """Return whether there are per-residue embeddings beside a file.

    Raises
    ------
    UserError
        Where its provenance does not say.
    """
    if not isinstance(found := info.provenance.get("per_residue"), bool):
        raise UserError(f"{path}: damaged (its provenance does not say per_residue); restore it from a copy")
    return found


def is_own_file(path: Path) -> bool:
    """Return whether a file is a Parquet file that embedome made: its metadata says so."""
    try:
        return METADATA_KEY in (ParquetFile(path).metadata.metadata or {})
    except UserError:
        return False


def describe_file(path: Path, rows: int, ids: Sequence[str]) -> dict[str, Any]:
    """Return a file's entry in a manifest; `ids` are in the file's order, of which the first and the last are used."""
    return {
        "file": path.name,
        "rows": rows,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
    }


def read_rows(path: str | os.PathLike, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a part file's rows.

    Raises
    ------
    UserError
        Where a page is damaged; names the file.
    """
    return ParquetFile(path).read(columns=columns, use_threads=False)


def iter_rows(path: str | os.PathLike, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield a part file's rows, a row group at a time; as `read_rows`."""
    return ParquetFile(path).iter_batches(GROUP_ROWS, columns=list(columns), use_threads=False)
