"""The analyse stage: its numbers against NumPy's and DuckDB's over all rows, the same on any number of workers."""

import gzip
import hashlib
import json
import random

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster
from embedome.analysis.analyse import Samples, analyse_dataset
from embedome.analysis.dataset_pass import SAMPLE_KEY, rank_limit
from embedome.analysis.drift import frechet_distance
from embedome.analysis.principal_components import Moments
from embedome.analysis.umap import SMALLEST, umap_points
from embedome.common.dask_workers import DaskWorkers
from embedome.common.errors import UserError
from embedome.sequences.digests import hash_ids
from helpers.filtered import tree
from helpers.written_dataset import Protein, write_dataset
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance
from sklearn.neighbors import NearestNeighbors

DIMENSION = 6
NO_MAP = Samples(sample_sequences=60, pca_sequences=30, umap_sequences=0)


def make_proteins() -> list[Protein]:
    """150 proteins of 5 families; some vectors equal, one dimension constant; 8 duplicates, some in another split."""
    rng, chance = np.random.default_rng(0), random.Random(0)
    centres = 4 * rng.normal(size=(5, DIMENSION)) + 3
    proteins = []
    for number in range(150):
        vector = (centres[number % 5] + rng.normal(size=DIMENSION)).astype(np.float16)
        vector[3] = 7
        sequence = "".join(chance.choices("ACDEFGHIKLMNPQRSTVWYX", k=chance.randint(20, 90)))
        split = "val" if number < 20 else "test" if number < 45 else "train"
        proteins.append(Protein(f"P{chance.randrange(10**6):06d}", split, sequence, vector, number % 3 or None))
    for one, other in ((60, 50), (61, 50), (70, 2)):
        proteins[one].vector[:] = proteins[other].vector
    for number in range(0, 40, 5):
        of = proteins[number]
        split = "train" if number < 20 else of.split
        proteins.append(Protein(f"copy{number}", split, of.sequence, of.vector, copy_of=of.id))
    return proteins


PROTEINS = make_proteins()
FAMILIES = {protein.id: f"F{number % 5}" for number, protein in enumerate(PROTEINS[:150])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("made") / "run", PROTEINS, DIMENSION, file_rows=23)


def analyse(folder, out="report", **options):
    return analyse_dataset(
        folder / "dataset",
        folder / "catalog",
        folder / "splits.parquet",
        folder / out,
        **{"samples": NO_MAP, **options},
    )


@pytest.fixture(scope="module")
def found(folder):
    path = folder / "families.tsv.gz"
    with gzip.open(path, "wt") as handle:
        handle.write("id\tfamily\n" + "".join(f"{name}\t{family}\n" for name, family in FAMILIES.items()))
    return analyse(folder, families=path)


def matrix(*splits: str) -> np.ndarray:
    return np.stack([protein.vector for protein in PROTEINS if protein.split in splits]).astype(np.float64)


def table(folder, name: str) -> list[dict]:
    return pq.read_table(folder / "report" / name).to_pylist()


def by_rank() -> list[Protein]:
    """Distinct proteins in the order in which they are sampled."""
    digest = lambda protein: hashlib.blake2b(protein.id.encode(), digest_size=8, key=b"report").digest()  # noqa: E731
    return sorted(PROTEINS[:150], key=digest)


def test_any_number_of_workers_gives_the_same_bytes(folder, found):
    analyse(folder, "again", families=folder / "families.tsv.gz", workers=DaskWorkers(threads=3))
    assert tree(folder / "again") == tree(folder / "report")
    assert json.loads((folder / "report" / "statistics.json").read_text()) == found


class Processes(DaskWorkers):
    """Workers that are processes, as Slurm's are: their arguments and results are pickled."""

    def start(self) -> LocalCluster:
        return LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)


@pytest.mark.slow
def test_workers_in_processes_of_their_own_give_the_same_bytes(folder, found):
    analyse(folder, "processes", families=folder / "families.tsv.gz", workers=Processes(threads=2))
    assert tree(folder / "processes") == tree(folder / "report")


def test_another_cut_into_files_draws_the_same_sample_and_gives_the_same_counts(folder, found, tmp_path):
    other = analyse(
        write_dataset(tmp_path / "run", PROTEINS, DIMENSION, file_rows=1000), families=folder / "families.tsv.gz"
    )
    same = set(found) - {"files", "bytes"}
    assert {key: other[key] for key in same} == {key: found[key] for key in same}
    for name in ("lengths", "norms", "composition"):
        assert (tmp_path / f"run/report/{name}.parquet").read_bytes() == (
            folder / f"report/{name}.parquet"
        ).read_bytes()


def test_dimensions_are_numpy_s_by_split_and_of_all(folder, found):
    rows = table(folder, "dimensions.parquet")
    for split in ("val", "test", "train", "all"):
        vectors = matrix(*(("val", "test", "train") if split == "all" else (split,)))
        mine = [row for row in rows if row["split"] == split]
        np.testing.assert_allclose([row["mean"] for row in mine], vectors.mean(0), rtol=1e-13)
        np.testing.assert_allclose([row["variance"] for row in mine], vectors.var(0), rtol=1e-11, atol=1e-15)
        assert mine[3]["variance"] == 0
        none = [row["standardised_difference"] is None for row in mine]
        assert none == [split in ("train", "all")] * DIMENSION
    assert len(rows) == 4 * DIMENSION


def test_components_are_the_eigenvectors_of_the_covariance(folder, found):
    rows = table(folder, "components.parquet")
    covariance = np.cov(matrix("val", "test", "train").T, bias=True)
    for row in rows:
        axis = np.array(row["axis"])
        np.testing.assert_allclose(covariance @ axis, row["variance"] * axis, atol=1e-9)
    assert np.isclose(sum(row["share"] for row in rows), 1)
    assert np.isclose(found["components"]["variance"], np.trace(covariance), rtol=1e-5)


def test_lengths_norms_and_residues_are_what_duckdb_counts(folder, found):
    rows = duckdb.sql(
        f"select split, length, count(*) from '{folder}/dataset/split=*/*.parquet' group by all order by all"
    ).fetchall()
    assert sorted(tuple(row.values()) for row in table(folder, "lengths.parquet")) == rows
    for split in ("val", "test", "train"):
        norms = np.linalg.norm(matrix(split), axis=1)
        lengths = sorted(len(protein.sequence) for protein in PROTEINS if protein.split == split)
        expected = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1], method="inverted_cdf")
        assert found["lengths"][split]["quantiles"] == expected.astype(int).tolist()
        assert found["lengths"][split]["residues"] == sum(lengths) == found["kept"][split]["residues"]
        assert np.allclose(
            [found["norms"][split]["mean"], found["norms"][split]["deviation"]], [norms.mean(), norms.std()]
        )
        assert np.allclose([found["norms"][split]["min"], found["norms"][split]["max"]], [norms.min(), norms.max()])
        for row in table(folder, "norms.parquet"):
            if row["split"] == split:
                assert row["sequences"] == ((row["low"] <= norms) & (norms < row["high"])).sum()
        text = "".join(protein.sequence for protein in PROTEINS if protein.split == split)
        counts = {row["residue"]: row["count"] for row in table(folder, "composition.parquet") if row["split"] == split}
        assert counts == {letter: text.count(letter) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
        assert found["kept"][split]["residues"] == len(text)
    assert sum(row["sequences"] for row in table(folder, "norms.parquet")) == len(PROTEINS)


def test_equal_vectors_of_different_sequences_are_counted_and_duplicates_are_not(found):
    assert found["equal_vectors"] == {
        "distinct_sequences": 150,
        "vectors": 2,
        "sequences": 5,
        "in_train": {"val": 1, "test": 0},
    }


def test_the_sample_are_the_smallest_hashes_and_their_nearest_those_of_scikit_learn(folder, found):
    expected = by_rank()[:60]
    rows = table(folder, "sample.parquet")
    assert [row["id"] for row in rows] == [protein.id for protein in expected]
    assert [row["split"] for row in rows] == [protein.split for protein in expected]
    assert [row["length"] for row in rows] == [len(protein.sequence) for protein in expected]
    vectors = np.stack([protein.vector for protein in expected]).astype(np.float64)
    distances, nearest = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(vectors).kneighbors()
    np.testing.assert_allclose([row["cosine"] for row in rows], 1 - distances[:, 0], atol=1e-6)
    np.testing.assert_allclose([row["norm"] for row in rows], np.linalg.norm(vectors, axis=1), rtol=1e-6)
    apart = distances[:, 0] > 1e-6
    assert apart.sum() > 50
    assert all(
        row["nearest"] == expected[j].id for row, j, sure in zip(rows, nearest[:, 0], apart, strict=True) if sure
    )
    same = np.mean([FAMILIES[row["id"]] == FAMILIES[row["nearest"]] for row in rows])
    assert np.isclose(found["neighbours"]["same_family"]["same"], same, rtol=1e-5)
    assert found["neighbours"]["same_family"]["sequences"] == found["neighbours"]["sequences"] == 60
    assert found["neighbours"]["same_family"]["chance"] < 0.3 < 0.8 < same
    assert found["neighbours"]["near_duplicates"] == sum(row["cosine"] >= 0.999 for row in rows)
    assert rows[0]["umap1"] is None


@pytest.mark.parametrize(("wanted", "count"), [(0, 30_000), (100, 30_000), (3000, 30_000), (29_990, 30_000), (50, 20)])
def test_files_give_enough_of_their_rows_for_the_sample_and_not_many_more(wanted, count):
    ranks = hash_ids(pa.array([f"id{number}" for number in range(count)]), SAMPLE_KEY)
    given = (ranks <= rank_limit(wanted, count)).sum()
    assert min(wanted, count) <= given <= wanted + 20 * wanted**0.5 + 200


def test_drift_is_that_of_the_splits_own_rows_and_of_as_many_of_train(found):
    for split, rows in (("val", 20), ("test", 29)):
        about = found["drift"][split]
        assert about["rows"] == rows
        root = sqrtm(np.cov(matrix(split).T, bias=True) @ np.cov(matrix("train").T, bias=True)).real
        distance = ((matrix(split).mean(0) - matrix("train").mean(0)) ** 2).sum()
        distance += matrix(split).var(0).sum() + matrix("train").var(0).sum() - 2 * np.trace(root)
        assert np.isclose(about["frechet"], distance, rtol=1e-4)
        lengths = [
            [len(protein.sequence) for protein in PROTEINS if protein.split == name] for name in (split, "train")
        ]
        assert np.isclose(about["length_wasserstein"], wasserstein_distance(*lengths), rtol=1e-5)
        train = [protein.vector for protein in by_rank() if protein.split == "train"]
        assert about["frechet_of_sample"]["sequences"] == rows
        alike = frechet_distance(Moments.of(np.stack(train[:rows])), Moments.of(matrix("train")))
        assert np.isclose(about["frechet_of_sample"]["frechet"], alike, rtol=1e-4)


def test_without_families_the_taxon_stands_in_for_them(folder):
    found = analyse(folder, "taxa")
    same = found["neighbours"]["same_taxon"]
    assert 0 < same["sequences"] < 60
    assert "same_family" not in found["neighbours"]


@pytest.mark.parametrize("sizes", [(0, 0, 1), (0, 0, 2), (1, 1, 1), (0, 3, 0), (2, 0, 0)])
def test_tiny_data_sets_and_empty_splits_have_numbers_or_none(tmp_path, sizes):
    proteins = [
        Protein(f"{split}{number}", split, "MKV" * (number + 7), np.full(9, number, np.float16))
        for split, count in zip(("val", "test", "train"), sizes, strict=True)
        for number in range(count)
    ]
    folder = write_dataset(tmp_path / "tiny", proteins, 9)
    found = analyse(folder, samples=Samples(10, 10, 10))
    assert found["rows"] == sum(sizes)
    assert found["umap"]["sequences"] == 0
    assert "too few" in found["umap"]["reason"]
    assert (found["neighbours"] is None) == (sum(sizes) < 2)
    for split, count in zip(("val", "test"), sizes, strict=False):
        assert (found["drift"][split] is None) == (count == 0 or sizes[2] == 0)
        assert (found["lengths"][split] is None) == (count == 0)
    assert found["components"]["effective_rank"] == (1 if max(sizes) > 1 else 0)


def test_a_data_set_whose_sequences_were_all_skipped(tmp_path):
    proteins = [Protein(f"P{number}", "train", "MKV" * (number + 7), None) for number in range(3)]
    found = analyse(write_dataset(tmp_path / "skipped", proteins, 4))
    assert found["rows"] == 0
    assert found["kept"]["train"] == {"sequences": 3, "residues": 72}
    assert found["components"]["effective_rank"] == 0
    assert found["lengths"]["all"] is found["norms"]["all"] is found["neighbours"] is found["drift"]["val"] is None
    assert table(tmp_path / "skipped", "dimensions.parquet") == []


def test_a_data_set_of_another_catalog_and_a_damaged_file_are_clear_errors(folder, tmp_path):
    other = write_dataset(tmp_path / "other", PROTEINS[:100], DIMENSION)
    with pytest.raises(UserError, match="split test: 25 sequences in the catalog, 29 rows"):
        analyse_dataset(
            folder / "dataset", other / "catalog", other / "splits.parquet", tmp_path / "report", samples=NO_MAP
        )
    path = next((other / "dataset").glob("split=val/*.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=f"{path}: not a readable Parquet file"):
        analyse(other)
    pq.write_table(pq.read_table(folder / "dataset" / "split=train" / "part-00000.parquet"), path)
    with pytest.raises(UserError, match=f"{path}: 23 rows, the manifest says 20"):
        analyse(other)


@pytest.mark.slow
def test_the_map_keeps_neighbours_and_is_the_same_again():
    rng = np.random.default_rng(0)
    groups = np.arange(3 * SMALLEST) % 3
    vectors = 6 * rng.normal(size=(3, 20))[groups] + rng.normal(size=(len(groups), 20))
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    points = umap_points(units, vectors[:, :2])
    nearest = NearestNeighbors(n_neighbors=3).fit(points).kneighbors(return_distance=False)
    assert (groups[nearest] == groups[:, None]).mean() > 0.99
    assert np.array_equal(umap_points(units, vectors[:, :2]), points)
