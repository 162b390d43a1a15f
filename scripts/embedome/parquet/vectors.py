"""Float16 vectors in Arrow: their types, conversion to and from NumPy, and which rows are finite."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

GROUP_ROWS = 8192
# Numbers tested at once by `finite_rows`: they stay in the cache.
FINITE_BLOCK = 1 << 18


def residues_type(dimension: int) -> pa.DataType:
    """Return the Arrow type of a sequence's vectors: a list of float16[dimension], nothing nullable."""
    return pa.list_(pa.field("element", vector_type(dimension), nullable=False))


def vector_type(dimension: int) -> pa.DataType:
    """Return the Arrow type of a vector: float16[dimension], nothing nullable."""
    return pa.list_(pa.field("element", pa.float16(), nullable=False), dimension)


def vector_array(vectors: np.ndarray) -> pa.Array:
    """Wrap a float16 matrix [n, D] as an Arrow array, without a copy where it is contiguous."""
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1), pa.float16())
    return pa.FixedSizeListArray.from_arrays(flat, type=vector_type(vectors.shape[1]))


def vector_matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return the float16 matrix [n, D] of an embedding column."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)


def finite_rows(vectors: np.ndarray) -> np.ndarray:
    """Return which rows of a float16 matrix [n, D] hold no infinity and no NaN, bool [n]; faster than NumPy's test.

    In half floats (IEEE 754 binary16) these have the highest exponent: without the sign, they are 0x7C00 or above.
    """
    bits = vectors.view(np.uint16)
    finite, size = np.empty(len(bits), bool), max(1, FINITE_BLOCK // max(1, bits.shape[1]))
    for start in range(0, len(bits), size):
        block = bits[start : start + size] & 0x7FFF
        finite[start : start + size] = block.max(1, initial=0) < 0x7C00
    return finite


def residues_column(states: Sequence[np.ndarray], dimension: int) -> pa.ChunkedArray:
    """Wrap matrices [L, D] of float16 as a column of lists of vectors, a chunk each, without a copy."""
    kind = residues_type(dimension)
    chunks = [pa.ListArray.from_arrays([0, len(each)], vector_array(each), kind) for each in states]
    return pa.chunked_array(chunks, kind)
