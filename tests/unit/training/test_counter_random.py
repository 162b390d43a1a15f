"""Random numbers by counter: even, independent of what is beside them; permutations one to one."""

import numpy as np
import pytest
from embedome.training.counter_random import combine, permute_index, uniform
from hypothesis import given
from hypothesis import strategies as st


@given(count=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_a_permutation_has_each_number_once(count, key):
    found = permute_index(np.arange(count), count, key)
    assert np.array_equal(np.sort(found), np.arange(count))


def test_a_permutation_is_found_index_by_index():
    whole = permute_index(np.arange(1000), 1000, 7)
    assert [permute_index(np.array([index]), 1000, 7)[0] for index in range(0, 1000, 97)] == whole[::97].tolist()


def test_permutations_of_other_keys_are_others_and_near_indices_are_far_apart():
    first, second = (permute_index(np.arange(60_000), 60_000, key) for key in (1, 2))
    assert (first == second).mean() < 1e-3
    assert np.abs(np.diff(first)).mean() == pytest.approx(20_000, rel=0.05)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_a_permutation_of_as_many_as_uniref50_has_no_table():
    found = permute_index(np.arange(60_000_000, 60_000_005), 60_315_044, 3)
    assert len(set(found.tolist())) == 5
    assert (found < 60_315_044).all()


def test_numbers_are_even():
    draws = uniform(5, np.arange(1000)[:, None], np.arange(1000))
    assert np.histogram(draws, 10, (0, 1))[0] == pytest.approx(1e5, rel=0.01)
    # Neighbours in either direction know nothing of each other.
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.004
    assert abs(np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]) < 0.004


def test_counters_are_not_mixed_up():
    assert combine(1, 2) != combine(2, 1)
    assert combine(0) != combine(0, 0)
    assert len(np.unique(combine(np.arange(300)[:, None], np.arange(300)))) == 300 * 300
