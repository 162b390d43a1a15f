"""Stages that are killed at any moment and run again: the same bytes, and nothing that is half done.

The filter, cluster and shard stages are killed in files of their own.
"""

from pathlib import Path

import numpy as np
import pytest
from embedome.splits.split import split_catalog
from embedome.splits.split_methods import SplitSettings
from helpers.filtered import Filtered, random_proteins, run_filter, tree, write_fasta
from helpers.processes import kill_at_random, run_python
from helpers.relatives import families, needs_mmseqs
from helpers.written_dataset import Protein, write_dataset

GROUP_ROWS = 32
# In small row groups a stage writes for most of its time.
BEGIN = f"""
from pathlib import Path
from embedome.splits import split_table
split_table.CATALOG_GROUP_ROWS, split_table.GROUP_ROWS = {GROUP_ROWS}, {2 * GROUP_ROWS}
source, out = map(Path, sys.argv[1:])
catalog, filtered, splits = source / "catalog", source / "filter.json", source / "splits.parquet"
"""
SPLIT = """
from embedome.splits.split_methods import SplitSettings
from embedome.splits.split import split_catalog
print("ready", flush=True)
split_catalog(catalog, filtered, SplitSettings("hash", 1, 0.2, 0.2), splits=out / "splits.parquet",
              summary=out / "a.json")
"""
REUSE = """
from embedome.dataset.reuse import find_reusable
print("ready", flush=True)
find_reusable(catalog, source / "dataset", reused=out / "reused.parquet", summary=out / "reuse.json")
"""
LEAKAGE = """
import embedome.splits.held_out as search
import embedome.splits.leakage as stage
from embedome.splits.mmseqs import Mmseqs
print("ready", flush=True)
stage.measure_leakage(catalog, splits, search.SearchSettings(5.7, 0.8, 0, 1e-3), leakage=out / "leakage.parquet",
                      summary=out / "leakage.json", mmseqs=Mmseqs(2))
"""
# What a search finds, in place of the search that is killed above: every third sequence of train.
DROP_LEAKS = """
import numpy as np
import embedome.splits.drop_leaks as stage
def search(held, targets, *_):
    found = np.flatnonzero(targets)
    found = found[found % 3 == 0]
    query = np.flatnonzero(held.queries)[found % held.queries.sum()]
    yield {"query": query, "target": found, "identity": np.full(len(found), 0.9)}
stage.search = search
print("ready", flush=True)
stage.drop_leaks(catalog, splits, source / "splits.json", filtered, None, 0.5, splits=out / "splits.parquet",
                 summary=out / "splits.json", rejects=out / "rejects_leak.parquet", mmseqs=None)
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a catalog, its splits, and a data set of the half of its sequences."""
    folder = tmp_path_factory.mktemp("many")
    run = run_and_split(folder, random_proteins(10_000, length=10))
    # The writer of data sets takes what it puts after "SQ." for the sequence.
    rows = run.rows("id, digest[4:]")[::2]
    proteins = [Protein(name, "train", digest, np.zeros(1)) for name, digest in rows]
    write_dataset(folder / "old", proteins, 1, file_rows=2000)
    (folder / "old" / "dataset").rename(folder / "dataset")
    return folder


@pytest.fixture(scope="module")
def related(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a catalog of relatives, and its splits."""
    folder = tmp_path_factory.mktemp("related")
    run_and_split(folder, families(20, 5, (0.05, 0.4)))
    return folder


def run_and_split(folder: Path, records: list[tuple[str, str]]) -> Filtered:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embedome.catalog.filter.CATALOG_GROUP_ROWS", GROUP_ROWS)
        patch.setattr("embedome.splits.split_table.CATALOG_GROUP_ROWS", GROUP_ROWS)
        patch.setattr("embedome.splits.split_table.GROUP_ROWS", 2 * GROUP_ROWS)
        run = run_filter(folder, write_fasta(folder / "x.fasta", records))
        plan = SplitSettings("hash", 0, 12, 8)
        split_catalog(run.catalog, run.summary, plan, splits=folder / "splits.parquet", summary=folder / "splits.json")
    return run


@pytest.mark.parametrize(
    ("source", "code", "count"),
    [
        ("many", SPLIT, 2),
        ("many", REUSE, 2),
        pytest.param("related", LEAKAGE, 2, marks=needs_mmseqs),
        ("many", DROP_LEAKS, 3),
    ],
    ids=["split", "reuse", "leakage", "drop_leaks"],
)
@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes(
    source: str, code: str, count: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(source)
    duration_s = run_python(BEGIN + code, folder, tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    assert len(whole) == count

    def no_file_is_half_written() -> None:
        left = {name: data for name, data in tree(tmp_path / "killed").items() if not name.startswith(".")}
        assert left.items() <= whole.items()

    kill_at_random(BEGIN + code, (folder, tmp_path / "killed"), duration_s, times=3, after=no_file_is_half_written)
    run_python(BEGIN + code, folder, tmp_path / "killed")
    assert tree(tmp_path / "killed") == whole
