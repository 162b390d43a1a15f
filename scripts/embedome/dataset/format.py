"""The embedding files: schema, how they are written, what their metadata say. docs/format.md describes them.

A part file holds a contiguous range of ids, sorted, and, in its metadata, the provenance of its vectors, the
fingerprint of all that went into it, and the sequences that were skipped.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from embedome.common.json_files import canonical_json
from embedome.common.outputs import DATASET_MARK
from embedome.common.terms import MEAN, vector_names
from embedome.parquet.file_format import FILE_FORMAT, METADATA_KEY
from embedome.parquet.vectors import residues_type, vector_type

# Version of a data set, and those that are read. docs/format.md has the history.
FORMAT = 3
READ_FORMATS = (2, FORMAT)
# Of a file of per-residue embeddings, whose rows are hundreds of times larger.
RESIDUE_GROUP_ROWS = 64
# Files of a data set. The leading underscore makes pyarrow, pandas and Dask pass them over when they open the folder.
MANIFEST = DATASET_MARK
SKIPPED_FILE = "_skipped.parquet"
METADATA, COMMON_METADATA = "_metadata", "_common_metadata"
# The data card, and which files are which split, as Hugging Face reads it: see `merging.data_card`.
CARD, CONFIGS = "_README.md", ".huggingface.yaml"
RESIDUES_FOLDER = "_residues"
SKIPPED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
# The list of those of all splits.
ALL_SKIPPED = SKIPPED.append(pa.field("split", pa.string()))
KEYS = pa.schema([SKIPPED.field("id"), SKIPPED.field("digest")])


def find_vector_names(provenance: Mapping[str, Any]) -> list[str]:
    """Return the names of a row's vectors: poolings, or of several layers `layer_<number>_<pooling>`."""
    layer = provenance.get("layer", -1)
    return vector_names(layer if isinstance(layer, list) else [layer], provenance["pooling"])


def vector_columns(names: Sequence[str]) -> dict[str, str]:
    """Return the column of each vector by its name: `embedding` for the first, `embedding_<name>` for the others."""
    return {name: f"embedding_{name}" if number else "embedding" for number, name in enumerate(names)}


def embedding_schema(dimension: int, names: Sequence[str] = (MEAN,)) -> pa.Schema:
    """Return the schema of an embedding row; each vector is a fixed-size list of half floats, [D]."""
    vectors = [pa.field(name, vector_type(dimension), nullable=False) for name in vector_columns(names).values()]
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
    """Return the schema of a row of per-residue embeddings: a list of vectors, in the order of the residues used."""
    return pa.schema([*KEYS, pa.field("residue_embeddings", residues_type(dimension), nullable=False)])


# Vectors are PLAIN without dictionary and statistics: BYTE_STREAM_SPLIT is 8 % smaller, but DuckDB does not read it for
# half floats, and a dictionary makes writing several times slower.
COLUMN_OPTIONS: dict[str, Any] = {
    "use_dictionary": ["state"],
    "write_statistics": ["id", "length", "n_residues_used", "taxid", "n_members"],
}


def embedding_metadata(
    provenance: Mapping[str, Any],
    skipped: pa.Table | None = None,
    fingerprint: str | None = None,
    recomputed: Sequence[str] = (),
    residues_sha256: str | None = None,
) -> dict[bytes, bytes]:
    """Return the metadata of an embedding file: where its vectors come from, and the skipped sequences.

    `recomputed` are ids whose vectors were not finite and were computed again in float32.
    """
    about = {
        "format": FILE_FORMAT,
        "provenance": provenance,
        "fingerprint": fingerprint,
        "skipped": [] if skipped is None else skipped.to_pylist(),
        "recomputed": list(recomputed),
        "residues_sha256": residues_sha256,
    }
    return {METADATA_KEY: canonical_json(about)}
