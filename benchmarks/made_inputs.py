"""Random sequences and rows that the benchmarks have in common."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from embedome.common.terms import EMBEDDED, MEAN
from embedome.dataset.format import embedding_schema
from embedome.embedding.length_histogram import uniref50_lengths
from embedome.parquet.vectors import vector_array

RESIDUES = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)
# Residues that ESM-1nv and ProtT5nv take: 512 positions without the special tokens.
LONGEST = 510
PROVENANCE = {"pooling": [MEAN], "per_residue": False}
# Directions that random vectors have in common, so that they compress about as real ones do.
RANK = 64


def random_sequences(count: int, longest: int = LONGEST) -> list[bytes]:
    """Sequences with the lengths of UniRef50, cut; the same at each call."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(uniref50_lengths().sample(rng, count), longest)
    text = rng.choice(RESIDUES, lengths.sum()).tobytes()
    ends = np.cumsum(lengths).tolist()
    return [text[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]


def random_axes(generator: np.random.Generator, dimension: int) -> np.ndarray:
    """Directions for `random_rows`, float32 [RANK, D]."""
    return generator.normal(size=(RANK, dimension)).astype(np.float32) / RANK**0.5


def random_rows(generator: np.random.Generator, axes: np.ndarray, ids: Sequence[str]) -> pa.Table:
    """Rows of a data set, with vectors of some structure and some noise."""
    rows = len(ids)
    vectors = generator.standard_normal((rows, RANK), np.float32) @ axes
    vectors += 0.1 * generator.standard_normal(vectors.shape, np.float32)
    columns = {
        "id": ids,
        "digest": ["SQ." + generator.bytes(16).hex() for _ in range(rows)],
        "length": generator.integers(20, 500, rows),
        "n_residues_used": generator.integers(20, 500, rows),
        "state": [EMBEDDED] * rows,
        "taxid": generator.integers(1, 10**6, rows),
        "n_members": generator.integers(1, 50, rows),
        "embedding": vector_array(vectors.astype(np.float16)),
    }
    return pa.table(columns).cast(embedding_schema(axes.shape[1]))
