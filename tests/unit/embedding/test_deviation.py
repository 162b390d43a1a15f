"""How far vectors in one arithmetic are from those in another, against sums by hand."""

import numpy as np
import pytest
from embedome.embedding.deviation import compare_vectors, sample_sequences


def test_the_sequences_are_the_same_each_time_and_fit_the_model() -> None:
    one, other = sample_sequences(62), sample_sequences(62)
    assert (one.residues == other.residues).all()
    assert np.diff(one.offsets).max() == 62
    assert np.diff(sample_sequences(10**9).offsets).max() == 68


def test_the_worst_cosine_and_difference_of_all_vectors_count() -> None:
    exact = {"mean": np.array([[1, 0], [0, 2]], np.float16), "max": np.array([[3, 4], [1, 0]], np.float16)}
    found = {"mean": np.array([[1, 0], [0, 1]], np.float16), "max": np.array([[4, 3], [1, 0]], np.float16)}
    assert compare_vectors(exact, found) == pytest.approx((24 / 25, 1.0))
    assert np.isnan(compare_vectors(exact, found | {"max": np.array([[np.inf, 0], [1, 0]], np.float16)})[0])
