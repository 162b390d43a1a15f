"""The SQL of docs/reading.md that finds neighbours, beside a search by NumPy through all vectors."""

import re
from pathlib import Path

import duckdb
import numpy as np
import pytest
from helpers.documents import blocks
from helpers.paths import ROOT
from helpers.written_dataset import Protein, write_dataset

DIMENSION = 48
DEMO = "results/dataset/esm1nv-demo"


@pytest.fixture(scope="module")
def proteins() -> list[Protein]:
    """300 proteins, whose vectors share a direction as those of models do, and a copy of the first."""
    chance = np.random.default_rng(5)
    vectors = (chance.normal(size=(300, DIMENSION)) + 1).astype(np.float16)
    splits = ("val", "test", "train")
    made = [Protein(f"P{n:03}", splits[n % 3], "MKT", vector) for n, vector in enumerate(vectors)]
    return [*made, Protein("copy", "train", "MKT", vectors[0], copy_of="P000")]


@pytest.fixture(scope="module")
def dataset(proteins: list[Protein], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sql")
    write_dataset(folder, proteins, DIMENSION)
    return folder / "dataset"


def by_numpy(proteins: list[Protein], query: str, count: int) -> list[tuple[str, float]]:
    """Ids and cosine similarities of the nearest, in double precision."""
    vectors = {protein.id: np.asarray(protein.vector, np.float64) for protein in proteins}
    one = vectors.pop(query)
    cosines = {
        name: float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other))) for name, other in vectors.items()
    }
    return sorted(cosines.items(), key=lambda item: (-item[1], item[0]))[:count]


def assert_same(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [cosine for _, cosine in found] == pytest.approx([cosine for _, cosine in expected], abs=1e-6)


def test_the_program_of_the_documents_finds_what_numpy_finds(
    dataset: Path, proteins: list[Protein], capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "reading.md").read_text()
    [program] = [block for _, block in blocks(text, "python") if "list_cosine_similarity" in block]
    names: dict = {}
    exec(program.replace(DEMO, str(dataset)), names)
    assert capsys.readouterr().out
    assert names["query"] == "P000"
    assert names["nearest"][0] == ("copy", pytest.approx(1, abs=1e-6))
    assert_same(names["nearest"], by_numpy(proteins, "P000", 5))


@pytest.mark.parametrize("query", ["P001", "P150", "P299"])
def test_arrays_give_the_same(dataset: Path, proteins: list[Protein], query: str) -> None:
    files = f"{dataset}/split=*/*.parquet"
    found = duckdb.execute(
        f"""
        with query as (select embedding::FLOAT[{DIMENSION}] as vector from '{files}' where id = $id)
        select id, array_cosine_similarity(embedding::FLOAT[{DIMENSION}], query.vector) as cosine
        from '{files}', query where id <> $id order by cosine desc, id limit 20
        """,
        {"id": query},
    ).fetchall()
    assert_same(found, by_numpy(proteins, query, 20))


def test_the_documents_name_functions_that_duckdb_has() -> None:
    text = (ROOT / "docs" / "reading.md").read_text()
    named = set(re.findall(r"`((?:array|list)_\w+)", text))
    known = {name for (name,) in duckdb.sql("select distinct function_name from duckdb_functions()").fetchall()}
    assert named == {"list_distance", "array_cosine_similarity"}
    assert named <= known
