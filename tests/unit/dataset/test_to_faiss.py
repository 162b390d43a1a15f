"""Nearest neighbours equal scikit-learn's brute force; an inverted file misses few and is the same on any cores."""

import os
import subprocess
import sys

import faiss
import numpy as np
import pyarrow as pa
import pytest
from embedome.common.errors import UserError
from embedome.dataset.to_faiss import METRICS, TRAIN_ROWS, Neighbours, build_index, sample_rows, unit
from helpers.paths import SCRIPTS
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

ROWS, DIMENSION = 3000, 16


@pytest.fixture(scope="module")
def vectors():
    """Vectors around 50 centres, as families are; of different lengths, one of zeros."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(50, DIMENSION))
    found = centres[random.integers(50, size=ROWS)] + random.normal(0, 0.3, (ROWS, DIMENSION))
    found *= random.uniform(0.5, 2, (ROWS, 1))
    found[17] = 0
    return found.astype(np.float16)


def stream(vectors, size=701):
    return lambda: (vectors[start : start + size] for start in range(0, len(vectors), size))


def brute_force(vectors, queries, k, metric):
    """Row numbers of the k nearest, by scikit-learn; inner products by sorting all of them."""
    vectors, queries = vectors.astype(np.float32), queries.astype(np.float32)
    if metric == "inner-product":
        return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]
    finder = NearestNeighbors(n_neighbors=k, metric={"l2": "sqeuclidean"}.get(metric, metric), algorithm="brute")
    return finder.fit(vectors).kneighbors(queries, return_distance=False)


@pytest.mark.parametrize("metric", METRICS)
def test_few_rows_are_searched_exactly(vectors, metric):
    index = build_index(stream(vectors), DIMENSION, ROWS, metric=metric)
    assert isinstance(index, faiss.IndexFlat)
    names = [f"P{row}" for row in range(ROWS)]
    found = Neighbours(index, pa.array(names), metric)
    scores, ids = found.search(vectors[100:140], 5)
    expected = brute_force(vectors, vectors[100:140], 5, metric)
    assert ids == [[names[row] for row in rows] for rows in expected]
    query, hit = vectors[100].astype(np.float64), vectors[expected[0, 2]].astype(np.float64)
    score = {
        "cosine": query @ hit / np.linalg.norm(query) / np.linalg.norm(hit),
        "inner-product": query @ hit,
        "l2": ((query - hit) ** 2).sum(),
    }[metric]
    np.testing.assert_allclose(scores[0, 2], score, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.slow
def test_many_rows_are_searched_in_lists_that_miss_few(vectors, metric):
    indices = [
        build_index(stream(vectors, size), DIMENSION, ROWS, metric=metric, exact_up_to=100, threads=threads)
        for size, threads in ((701, 1), (90, 2))
    ]
    assert isinstance(indices[0], faiss.IndexIVF)
    assert indices[0].nlist == ROWS // TRAIN_ROWS
    # Neither how rows arrive nor the number of threads changes a byte.
    assert np.array_equal(*(faiss.serialize_index(index) for index in indices))
    indices[0].nprobe = 8
    _, ids = Neighbours(indices[0], pa.array(range(ROWS)), metric).search(vectors[200:300], 10)
    expected = brute_force(vectors, vectors[200:300], 10, metric)
    assert np.mean([len(set(one) & set(other)) / 10 for one, other in zip(ids, expected, strict=True)]) > 0.9


def test_an_index_is_the_seeds(vectors):
    one, same, other = (build_index(stream(vectors), DIMENSION, ROWS, exact_up_to=0, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(faiss.serialize_index(one), faiss.serialize_index(same))
    assert not np.array_equal(faiss.serialize_index(one), faiss.serialize_index(other))


def test_of_fewer_rows_than_asked_for_the_rest_is_none(vectors):
    found = Neighbours(build_index(stream(vectors[:2]), DIMENSION, 2), pa.array(["a", "b"]), "cosine")
    assert sorted(found.search(vectors[0], 3)[1][0][:2]) == ["a", "b"]
    assert found.search(vectors[0], 3)[1][0][2] is None


def test_no_rows_and_a_vector_of_zeros(vectors):
    assert build_index(stream(vectors[:0]), DIMENSION, 0).ntotal == 0
    found = unit(vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.delete(np.linalg.norm(found, axis=1), 17), 1, rtol=1e-6)
    assert not found[17].any()


def test_faults_are_named(vectors):
    with pytest.raises(UserError, match="no metric 'dot'; expected one of cosine, inner-product, l2"):
        build_index(stream(vectors), DIMENSION, ROWS, metric="dot")
    with pytest.raises(RuntimeError, match="the stream has 3000 rows; expected 3001"):
        build_index(stream(vectors), DIMENSION, ROWS + 1)


def test_the_threads_of_faiss_are_put_back(vectors):
    before = faiss.omp_get_max_threads()
    build_index(stream(vectors), DIMENSION, ROWS, threads=before + 1)
    assert faiss.omp_get_max_threads() == before


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 9), st.integers(0, 3))
def test_a_sample_has_distinct_rows_in_order_however_they_arrive(rows, wanted, size, seed):
    found = sample_rows(stream(np.arange(rows)[:, None], size)(), rows, wanted, seed)[:, 0]
    assert len(found) == min(rows, wanted)
    assert (np.diff(found) > 0).all()
    assert np.array_equal(found, sample_rows([np.arange(rows)[:, None]], rows, wanted, seed)[:, 0])


@pytest.mark.parametrize("shape", [(15,), (2, 17), (0,), (1, 1, DIMENSION)])
def test_queries_of_another_dimension_are_refused(vectors, shape):
    index = build_index(stream(vectors), DIMENSION, ROWS)
    found = Neighbours(index, pa.array(map(str, range(ROWS)), pa.large_string()), "cosine")
    with pytest.raises(UserError, match=rf"queries have the shape .*; expected \(n, {DIMENSION}\)"):
        found.search(np.ones(shape, np.float16), 3)
    with pytest.raises(UserError, match="0 neighbours of each; expected 1 or more"):
        found.search(vectors[:2], 0)


def test_the_loader_of_faiss_says_nothing(tmp_path):
    """In a process of its own, which has not loaded it yet."""
    program = "from embedome.common.log import setup_logging; from embedome.dataset.to_faiss import load_faiss\n"
    program += "setup_logging(); print(load_faiss().__name__)"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("faiss\n", "")
