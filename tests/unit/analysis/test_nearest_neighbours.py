"""Nearest vectors against all pairs in double precision; agreement of labels against a loop over pairs."""

import numpy as np
import pytest
from embedome.analysis.nearest_neighbours import agreement, find_nearest, mean_cosine, unit_vectors
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity


@pytest.mark.parametrize("k", [1, 7])
def test_nearest_are_those_of_all_pairs_compared_in_double_precision(k):
    vectors = np.random.default_rng(0).normal(0.3, 1, size=(300, 16)).astype(np.float16)
    indices, cosines = find_nearest(unit_vectors(vectors), k)
    exact = vectors.astype(np.float64)
    pairs = exact @ exact.T / np.outer(*2 * [np.linalg.norm(exact, axis=1)])
    np.fill_diagonal(pairs, -np.inf)
    expected = np.argsort(-pairs, axis=1)[:, :k]
    assert np.array_equal(indices, expected)
    np.testing.assert_allclose(cosines, np.take_along_axis(pairs, expected, 1), atol=1e-6)


def test_equal_and_zero_vectors():
    units = unit_vectors(np.array([[3, 4], [0, 0], [6, 8], [-3, -4]], np.float16))
    np.testing.assert_allclose(units, [[0.6, 0.8], [0, 0], [0.6, 0.8], [-0.6, -0.8]], atol=1e-7)
    indices, cosines = find_nearest(units, 1)
    assert indices[[0, 2, 3], 0].tolist() == [2, 0, 1]
    np.testing.assert_allclose(cosines[:, 0], [1, 0, 1, 0], atol=1e-6)
    assert cosines.max() <= 1


def test_mean_cosine_is_that_of_all_pairs():
    vectors = np.random.default_rng(0).normal(0.5, 1, size=(40, 5))
    pairs = cosine_similarity(vectors)[~np.eye(40, dtype=bool)]
    assert np.isclose(mean_cosine(unit_vectors(vectors)), pairs.mean(), atol=1e-6)


@given(st.integers(2, 25), st.integers(0, 999))
def test_agreement_is_what_a_loop_counts(count, seed):
    rng = np.random.default_rng(seed)
    labels = [[None, "a", "b", "c"][code] for code in rng.integers(0, 4, count)]
    neighbours = (np.arange(count) + rng.integers(1, count, count)) % count
    found = agreement(labels, neighbours)
    kept = [i for i in range(count) if labels[i] and labels[neighbours[i]]]
    if len(kept) < 2:
        assert found is None
        return
    assert found.sequences == len(kept)
    assert np.isclose(found.same, np.mean([labels[i] == labels[neighbours[i]] for i in kept]))
    pairs = [labels[i] == labels[j] for i in kept for j in kept if i != j]
    assert np.isclose(found.chance, np.mean(pairs))
    assert np.isclose(found.possible, np.mean([any(labels[i] == labels[j] for j in kept if i != j) for i in kept]))
