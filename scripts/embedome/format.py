"""The embedding files: schema, how they are written, what their metadata say. docs/format.md describes them.

A part file holds a contiguous range of ids, sorted, and, in its metadata, the provenance of its vectors, the
fingerprint of all that went into it, and the sequences that were skipped.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from embedome.common.atomic_files import atomic_path
from embedome.common.errors import UserError
from embedome.common.json_files import canonical_json, file_sha256
from embedome.common.terms import MEAN
from embedome.parquet.reader import ParquetFile
from embedome.parquet.vectors import GROUP_ROWS, finite_rows, residues_type, vector_matrix, vector_type
from embedome.parquet.writer import ParquetSink

FORMAT = 2
# Of a file of residues' vectors, whose rows are hundreds of times larger.
RESIDUE_GROUP_ROWS = 64
METADATA_KEY = b"embedome"
# Keys of the provenance that are no reason to embed anew.
DEVIATION = "int8_deviation"
MEASURED = (DEVIATION,)
# Files of a data set. The leading underscore makes pyarrow, pandas and Dask pass them over when they open the folder.
MANIFEST = "_manifest.json"
SKIPPED_FILE = "_skipped.parquet"
METADATA, COMMON_METADATA = "_metadata", "_common_metadata"
RESIDUES_FOLDER = "_residues"
SKIPPED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
KEYS = pa.schema([SKIPPED.field("id"), SKIPPED.field("digest")])


def vector_columns(poolings: Sequence[str]) -> dict[str, str]:
    """The column of each pooling: `embedding` for the first, `embedding_<pooling>` for the others."""
    return {name: f"embedding_{name}" if number else "embedding" for number, name in enumerate(poolings)}


def embedding_schema(dimension: int, poolings: Sequence[str] = (MEAN,)) -> pa.Schema:
    """Schema of an embedding row; each vector is a fixed-size list of half floats."""
    vectors = [pa.field(name, vector_type(dimension), nullable=False) for name in vector_columns(poolings).values()]
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("digest", pa.string(), nullable=False),
            pa.field("length", pa.int32(), nullable=False),
            pa.field("n_residues_used", pa.int32(), nullable=False),
            pa.field("state", pa.string(), nullable=False),
            pa.field("taxid", pa.int32()),
            pa.field("n_members", pa.int32()),
            *vectors,
        ]
    )


def residue_schema(dimension: int) -> pa.Schema:
    """Schema of a row of residues' vectors: a list of them, in the order of the residues used."""
    return pa.schema([*KEYS, pa.field("residue_embeddings", residues_type(dimension), nullable=False)])


def vectors_finite(table: pa.Table, poolings: Sequence[str]) -> bool:
    """Whether all `finite_rows` are, of all poolings."""
    columns = vector_columns(poolings).values()
    return all(finite_rows(vector_matrix(chunk)).all() for column in columns for chunk in table[column].chunks)


# Vectors are PLAIN without dictionary and statistics: BYTE_STREAM_SPLIT is 8 % smaller, but DuckDB does not read it for
# half floats, and a dictionary makes writing several times slower.
COLUMN_OPTIONS = {
    "use_dictionary": ["state"],
    "write_statistics": ["id", "length", "n_residues_used", "taxid", "n_members"],
}


def embedding_sink(path: str | os.PathLike | BinaryIO, schema: pa.Schema) -> ParquetSink:
    """Open an embedding file for writing."""
    return ParquetSink(path, schema, GROUP_ROWS, **COLUMN_OPTIONS)


def residue_sink(path: str | os.PathLike, dimension: int) -> ParquetSink:
    """Open a file of residues' vectors for writing."""
    return ParquetSink(
        path, residue_schema(dimension), RESIDUE_GROUP_ROWS, use_dictionary=False, write_statistics=["id"]
    )


def embedding_metadata(
    provenance: Mapping[str, Any],
    skipped: pa.Table | None = None,
    fingerprint: str | None = None,
    recomputed: Sequence[str] = (),
    residues_sha256: str | None = None,
) -> dict[bytes, bytes]:
    """Metadata of an embedding file: where its vectors come from, and the sequences that got none.

    `recomputed` are ids whose vectors were not finite and were made anew in float32.
    """
    about = {
        "format": FORMAT,
        "provenance": provenance,
        "fingerprint": fingerprint,
        "skipped": [] if skipped is None else skipped.to_pylist(),
        "recomputed": list(recomputed),
        "residues_sha256": residues_sha256,
    }
    return {METADATA_KEY: canonical_json(about)}


def residues_path(part: Path) -> Path:
    """Where a part's residues' vectors lie."""
    return part.with_suffix(".residues.parquet")


@contextmanager
def new_file(path: Path, there: Callable[[], bool]) -> Iterator[Path]:
    """As `files.atomic_path`; but where the file is `there` by the end of the block, that one stays."""
    with atomic_path(path) as temporary:
        yield temporary
        if there():
            # Where it finds nothing to publish but a file of that name, `atomic_path` leaves it alone.
            temporary.unlink(missing_ok=True)


def never() -> bool:
    """Say that no file is there."""
    return False


def write_part(path: Path, table: pa.Table, metadata: Mapping[bytes, bytes], there: Callable[[], bool] = never) -> None:
    """Write a part file atomically: rows in id order, the rest in the metadata; `there` as in `new_file`."""
    with new_file(path, there) as temporary, embedding_sink(temporary, table.schema) as sink:
        sink.write(table)
        sink.describe(metadata)


def write_residues(path: Path, table: pa.Table, provenance: Mapping[str, Any], there: Callable[[], bool]) -> None:
    """Write a part's residues' vectors atomically, rows in id order; `there` as in `new_file`."""
    dimension = table.schema.field("residue_embeddings").type.value_type.list_size
    with new_file(path, there) as temporary, residue_sink(temporary, dimension) as sink:
        sink.write(table)
        sink.describe(embedding_metadata(provenance))


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
        return embedding_schema(self.dimension, self.provenance["pooling"])


def part_info(path: str | os.PathLike) -> PartInfo:
    """Read a part file's footer.

    Raises
    ------
    UserError
        Where the file is missing, damaged, not an embedding file, or of another format version.
    """
    file = ParquetFile(path)
    text = (file.metadata.metadata or {}).get(METADATA_KEY)
    if text is None or "embedding" not in file.schema_arrow.names:
        raise UserError(f"{path}: not an embedome embedding file")
    about = json.loads(text)
    if about["format"] != FORMAT:
        raise UserError(f"{path}: format {about['format']!r}; expected {FORMAT}. Rebuild it with this version")
    dimension = file.schema_arrow.field("embedding").type.list_size
    info = PartInfo(file.metadata.num_rows, dimension, *(about[field.name] for field in fields(PartInfo)[2:]))
    if file.schema_arrow.remove_metadata() != info.schema:
        raise UserError(f"{path}: its columns are not those of format {FORMAT}")
    return info


def describe_file(path: Path, rows: int, ids: Sequence[str], sha256: str | None = None) -> dict[str, Any]:
    """A file's line in a manifest; its digest is computed where it is not known."""
    return {
        "file": path.name,
        "rows": rows,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "bytes": path.stat().st_size,
        "sha256": sha256 or file_sha256(path),
    }


def lasting(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance without what was measured on the way, which differs a little from machine to machine."""
    return {key: value for key, value in provenance.items() if key not in MEASURED}


def worst_deviation(provenances: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The worst `DEVIATION` of several, as a key of provenance; no key where none has it."""
    found = [each[DEVIATION] for each in provenances if DEVIATION in each]
    if not found:
        return {}
    cosine, difference = min(each["min_cosine"] for each in found), max(each["max_abs"] for each in found)
    return {DEVIATION: {"min_cosine": cosine, "max_abs": difference}}


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
