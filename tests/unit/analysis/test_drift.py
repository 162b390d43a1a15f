"""Distances between splits against SciPy's."""

import numpy as np
import pytest
from embedome.analysis.drift import frechet_distance, length_distances, standardised_differences
from embedome.analysis.principal_components import Moments
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import ks_2samp, wasserstein_distance

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=40)


@given(LENGTHS, LENGTHS)
def test_length_distances_are_scipy_s(one, other):
    wasserstein, kolmogorov = length_distances(np.bincount(one), np.bincount(other))
    assert np.isclose(wasserstein, wasserstein_distance(one, other))
    assert np.isclose(kolmogorov, ks_2samp(one, other, method="asymp").statistic)


def test_frechet_distance_is_the_formula_with_scipy_s_matrix_root():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(300, 7)) @ rng.normal(size=(7, 7))
    other = rng.normal(size=(200, 7)) @ rng.normal(size=(7, 7)) + 0.5
    covariances = [np.cov(vectors.T, bias=True) for vectors in (one, other)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = ((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)
    assert np.isclose(frechet_distance(Moments.of(one), Moments.of(other)), expected)
    assert np.isclose(frechet_distance(Moments.of(other), Moments.of(one)), expected)


def test_frechet_distance_of_shifted_vectors_is_the_shift_squared_and_of_equal_ones_nothing():
    vectors = np.random.default_rng(0).normal(size=(40, 5))
    moments = Moments.of(vectors)
    assert frechet_distance(moments, moments) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(moments, Moments.of(vectors + 2)) == pytest.approx(5 * 4)
    # Fewer vectors than dimensions: the covariance has no inverse, and needs none.
    assert frechet_distance(Moments.of(vectors[:2]), Moments.of(vectors[:2] + 2)) == pytest.approx(5 * 4)


def test_standardised_differences_by_a_loop_and_where_nothing_varies():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(30, 4)), rng.normal(1, 2, size=(50, 4))
    one[:, 2] = other[:, 2] = 3
    one[:, 3], other[:, 3] = 1, 2
    found = standardised_differences(Moments.of(one), Moments.of(other))
    for dimension in (0, 1):
        a, b = one[:, dimension], other[:, dimension]
        assert np.isclose(found[dimension], (a.mean() - b.mean()) / np.sqrt((a.var() + b.var()) / 2))
    assert found[2] == 0
    assert found[3] == -np.inf
