"""Labels carried over from hits: a loop over hits and labels has the same result."""

from collections import defaultdict

import numpy as np
import pytest
from embedome.annotation.hits import Hits
from embedome.annotation.transfer import similarity, transfer_labels
from hypothesis import given
from hypothesis import strategies as st

DISTANCES = st.one_of(st.sampled_from([0.0, 0.5, 1.5]), st.floats(0, 1e6))


@st.composite
def cases(draw):
    """Labels of some proteins, and the hits of some queries among them, nearest first."""
    labels = draw(st.lists(st.sets(st.integers(0, 6), min_size=1), min_size=1, max_size=8))
    hits = draw(
        st.lists(
            st.lists(st.tuples(st.integers(0, len(labels) - 1), DISTANCES), unique_by=lambda hit: hit[0]), max_size=5
        )
    )
    return labels, [sorted(each, key=lambda hit: (hit[1], hit[0])) for each in hits]


def arrays(labels, hits):
    offsets = np.cumsum([0, *map(len, labels)])
    codes = np.array([code for each in labels for code in sorted(each)])
    flat = [(query, *hit) for query, each in enumerate(hits) for hit in each]
    query, row, distance = (np.array([hit[i] for hit in flat], dtype) for i, dtype in enumerate((int, int, float)))
    return Hits(query, row, distance), offsets, codes


def by_hand(labels, hits, like, least):
    """Rows (query, label, reliability, hits that carry it, row of the nearest), by rank; and how many were dropped."""
    found, dropped = [], 0
    for query, each in enumerate(hits):
        sums, carriers = defaultdict(float), defaultdict(list)
        for row, distance in each:
            for label in labels[row]:
                sums[label] += like(distance)
                carriers[label].append(row)
        rows = [(-total / len(each), label) for label, total in sums.items()]
        kept = sorted(row for row in rows if -row[0] >= least)
        dropped += len(rows) - len(kept)
        found += [(query, name, -value, len(carriers[name]), carriers[name][0]) for value, name in kept]
    return found, dropped


@given(cases(), st.sampled_from([0.0, 0.1, 0.5]), st.sampled_from(["euclidean", "cosine"]))
def test_transfer_is_what_a_loop_over_hits_and_labels_gives(case, least, metric):
    labels, hits = case
    made, offsets, codes = arrays(labels, hits)
    found = transfer_labels(made, offsets, codes, metric, least)
    like = {"euclidean": lambda distance: 0.5 / (0.5 + distance), "cosine": lambda distance: 1 - distance}[metric]
    expected, dropped = by_hand(labels, hits, like, least)
    rows = zip(found.query, found.label, found.reliability, found.n_hits, made.row[found.nearest], strict=True)
    assert [tuple(row) for row in rows] == [pytest.approx(row, rel=1e-12) for row in expected]
    assert found.below == dropped
    ranks = defaultdict(list)
    for query, rank in zip(found.query.tolist(), found.rank.tolist(), strict=True):
        ranks[query].append(rank)
    assert all(each == list(range(1, len(each) + 1)) for each in ranks.values())


def test_reliability_by_numbers_worked_out_by_hand():
    """Three hits at 0, 0.5 and 1.5: similarities 1, 1/2 and 1/4."""
    hits = Hits(np.zeros(3, int), np.arange(3), np.array([0, 0.5, 1.5]))
    found = transfer_labels(hits, np.array([0, 1, 3, 4]), np.array([0, 0, 1, 1]), "euclidean", 0)
    assert found.label.tolist() == [0, 1]
    np.testing.assert_allclose(found.reliability, [1.5 / 3, 0.75 / 3])
    assert found.n_hits.tolist() == [2, 2]
    assert found.nearest.tolist() == [0, 1]


def test_a_cosine_similarity_is_one_minus_the_distance():
    np.testing.assert_allclose(similarity(np.array([0, 0.25, 2]), "cosine"), [1, 0.75, -1])
