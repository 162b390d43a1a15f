"""Rows read as many at a time as are asked for; streams in the order of their ids merged into one."""

from collections.abc import Iterator
from itertools import pairwise
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from embedome.parquet.reader import RowReader, merge_by_id
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


@settings(max_examples=100, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 99), unique=True),
    cuts=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), max_size=4),
    chance=st.randoms(),
)
@pytest.mark.slow
def test_streams_merged_by_id_are_one(numbers: list[int], cuts: list[list[int]], chance: Random) -> None:
    """Whatever the tables of each stream, empty ones too; the other column stays beside its id."""
    owners = {number: chance.randrange(len(cuts)) for number in numbers} if cuts else {}

    def stream(own: int) -> Iterator[pa.Table]:
        mine = sorted(number for number in owners if owners[number] == own)
        for size in cuts[own] * 100:
            yield rows(mine[:size])
            mine = mine[size:]
        yield rows(mine)

    def rows(numbers: list[int]) -> pa.Table:
        return pa.table(
            {"id": pa.array([f"P{n:02d}" for n in numbers], pa.string()), "n": pa.array(numbers, pa.int64())}
        )

    merged = list(merge_by_id(stream(own) for own in range(len(cuts))))
    assert all(len(table) for table in merged)
    assert [row for table in merged for row in table.to_pylist()] == rows(sorted(owners)).to_pylist()


def test_streams_are_read_as_they_are_merged() -> None:
    """No table is read before the rows of the one before it are needed."""
    read = []

    def stream(ids: str) -> Iterator[pa.Table]:
        for name in ids:
            read.append(name)
            yield pa.table({"id": [name]})

    merged = merge_by_id([stream("adg"), stream("beh"), stream("cfi")])
    for index, table in enumerate(merged):
        assert table["id"].to_pylist() == ["abcdefghi"[index]]
        assert len(read) <= index + 3
