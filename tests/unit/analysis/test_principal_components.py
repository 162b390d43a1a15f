"""Moments against NumPy's over all vectors at once, however they are cut; principal components against scikit-learn."""

import numpy as np
import pytest
from embedome.analysis.principal_components import Components, Moments
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA


def add_up(vectors: np.ndarray, cuts: list[int]) -> Moments:
    total = Moments.empty(vectors.shape[1])
    for piece in np.split(vectors, sorted(cuts)):
        total += Moments.of(piece)
    return total


@given(
    st.integers(0, 30),
    st.integers(1, 40),
    st.lists(st.integers(0, 30), max_size=5),
    st.sampled_from([0.0, 1e3, 1e7]),
    st.integers(0, 99),
)
def test_pieces_add_up_to_the_whole_also_far_from_zero(count, dimension, cuts, shift, seed):
    vectors = shift + np.random.default_rng(seed).normal(size=(count, dimension))
    total = add_up(vectors, cuts)
    assert total.count == count
    if count:
        expected = np.cov(vectors.T, bias=True).reshape(dimension, dimension)
        scale = 1e-12 + 1e-16 * shift
        np.testing.assert_allclose(total.mean, vectors.mean(0), rtol=1e-14, atol=1e-13)
        np.testing.assert_allclose(total.covariance, expected, atol=1e3 * scale)
        np.testing.assert_allclose(total.variance, vectors.var(0), atol=1e3 * scale)
    else:
        assert not total.covariance.any()
        assert not total.mean.any()


def test_a_large_mean_loses_nothing_where_sums_of_squares_lose_all():
    vectors = 1e9 + np.random.default_rng(0).normal(size=(20_000, 3))
    naive = (vectors**2).mean(0) - vectors.mean(0) ** 2
    assert (np.abs(naive - 1) > 0.5).any()
    np.testing.assert_allclose(add_up(vectors, [1, 700, 9000]).variance, vectors.var(0), rtol=1e-6)


def test_a_constant_dimension_has_no_variance_at_all():
    vectors = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float16)
    vectors[:, 2] = np.float16(0.1)
    total = add_up(vectors, [3, 100, 101])
    assert total.variance[2] == 0
    assert not total.scatter[2].any()


@pytest.mark.parametrize(("count", "dimension"), [(200, 8), (5, 12), (2, 3)])
def test_components_are_those_of_scikit_learn(count, dimension):
    rng = np.random.default_rng(4)
    vectors = (rng.normal(size=(count, dimension)) * np.arange(1, dimension + 1) + 50).astype(np.float16)
    found = Components(add_up(vectors, [1, count // 2]))
    expected = PCA(svd_solver="full").fit(vectors.astype(np.float64))
    some = min(count - 1, dimension)
    np.testing.assert_allclose(found.explained[:some], expected.explained_variance_ratio_[:some], atol=1e-12)
    np.testing.assert_allclose(found.explained[some:], 0, atol=1e-12)
    points = expected.transform(vectors.astype(np.float64))[:, :2]
    drawn = min(some, 2)
    signs = np.sign((points * found.project(vectors)).sum(0))[:drawn]
    np.testing.assert_allclose(found.project(vectors)[:, :drawn], points[:, :drawn] * signs, atol=1e-8)


def test_effective_rank_is_the_entropy_of_the_singular_values_of_the_covariance():
    vectors = np.random.default_rng(1).normal(size=(50, 6)) @ np.diag([5, 3, 2, 1, 0.1, 0])
    values = np.linalg.svd(np.cov(vectors.T), compute_uv=False)
    shares = values[:5] / values.sum()
    assert np.isclose(Components(Moments.of(vectors)).effective_rank, np.exp(-(shares * np.log(shares)).sum()))


def test_equal_variances_have_full_rank_one_direction_has_one_and_none_has_none():
    cross = np.concatenate([np.eye(5), -np.eye(5)])
    assert np.isclose(Components(Moments.of(cross)).effective_rank, 5)
    line = np.outer(np.arange(9), [1.0, 2, 3])
    assert np.isclose(Components(Moments.of(line)).effective_rank, 1, atol=1e-6)
    assert Components(Moments.of(line)).count_axes(0.99) == 1
    point = Components(Moments.of(np.ones((3, 2))))
    assert point.effective_rank == 0
    assert point.count_axes(0.5) == 0
    assert not point.explained.any()


def test_one_dimension_is_projected_on_one_axis():
    vectors = np.array([[1.0], [2], [4]])
    points = Components(Moments.of(vectors)).project(vectors)
    np.testing.assert_allclose(np.abs(points[:, 0]), np.abs(vectors[:, 0] - 7 / 3))
    assert not points[:, 1].any()
