"""Sequences that occur more than once, against a dictionary of all digests."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
from embedome.catalog.identical_sequences import RepeatedDigests
from hypothesis import given
from hypothesis import strategies as st


def make_table(ids: list[str], digests: list[str]) -> pa.Table:
    prefixes = np.array([int.from_bytes(digest[3:11].encode(), "little") for digest in digests], np.uint64)
    return pa.table({"id": ids, "digest": digests, "digest_prefix": prefixes})


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40),
    st.lists(st.integers(0, 40), max_size=4),
    st.booleans(),
)
def test_each_row_is_given_the_first_id_of_its_sequence(
    drawn: list[tuple[int, int]], cuts: list[int], only_repeated: bool
) -> None:
    """Digests with few different beginnings and ends, so that many share their prefix and are yet not the same."""
    digests = [f"SQ.{begin:08d}{end:024d}" for begin, end in drawn]
    ids = sorted(f"protein-{'x' * (row % 3)}{row:02d}é" for row in range(len(drawn)))
    first: dict[str, str] = {}
    expected = []
    for name, digest in zip(ids, digests, strict=True):
        canonical = first.setdefault(digest, name)
        expected.append(canonical if canonical != name else None)
    whole = make_table(ids, digests)
    prefixes, counts = np.unique(whole["digest_prefix"].to_numpy(), return_counts=True)
    duplicates = RepeatedDigests(prefixes[counts > 1] if only_repeated else prefixes)
    bounds = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    found = [duplicates.canonical_ids(whole.slice(start, end - start)) for start, end in pairwise(bounds)]
    assert pa.chunked_array(found).to_pylist() == expected


def test_without_repeats_no_row_is_a_duplicate() -> None:
    table = make_table(["a", "b"], ["SQ." + "A" * 32, "SQ." + "B" * 32])
    assert RepeatedDigests(np.zeros(0, np.uint64)).canonical_ids(table).to_pylist() == [None, None]
