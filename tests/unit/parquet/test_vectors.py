"""Float16 vectors in Arrow: without a copy, and which rows are finite, whatever their bits."""

import numpy as np
from embedome.parquet.vectors import finite_rows, residues_column, residues_type
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


@given(
    hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=20)),
    st.sampled_from([0, 0x7C00, 0xFC00, 0x7E01, 0x7BFF]),
)
def test_finite_is_what_numpy_says(bits, one):
    # Of random bits one in thirty is not finite: most matrices get one number that is chosen.
    vectors = np.where((bits & 0x7C00) == 0x7C00, one, bits).astype(np.uint16).view(np.float16)
    np.testing.assert_array_equal(finite_rows(vectors), np.isfinite(vectors).all(1))


def test_residues_are_a_column_without_a_copy():
    states = [np.arange(length * 3).reshape(length, 3).astype(np.float16) for length in (4, 0, 2)]
    column = residues_column(states, 3)
    assert column.type == residues_type(3)
    assert column.to_pylist() == [each.tolist() for each in states]
    for chunk, each in zip(column.chunks, states, strict=True):
        assert not len(each) or np.shares_memory(chunk.values.flatten().to_numpy(), each)
    assert residues_column([], 3).type == residues_type(3)
