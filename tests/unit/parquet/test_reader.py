"""Rows that are read as many at a time as are asked for."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
from embedome.parquet.reader import RowReader
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), max_size=8), takes=st.lists(st.integers(0, 12), max_size=12))
def test_rows_are_taken_in_order(sizes: list[int], takes: list[int]) -> None:
    schema = pa.schema([("n", pa.int64())])
    bounds = np.cumsum([0, *sizes]).tolist()
    reader = RowReader((pa.table({"n": list(range(a, b))}, schema) for a, b in pairwise(bounds)), schema)
    left = list(range(bounds[-1]))
    for count in takes:
        assert reader.take(count)["n"].to_pylist() == left[:count]
        left = left[count:]
