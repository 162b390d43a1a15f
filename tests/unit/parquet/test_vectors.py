"""Which rows of float16 vectors are finite, whatever their bits."""

import numpy as np
from embedome.parquet.vectors import finite_rows
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
