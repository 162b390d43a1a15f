"""Parts joined into larger files: which ones, the same rows, the same bytes."""

import hashlib
import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster
from embedome.common.dask_workers import DaskWorkers
from embedome.common.errors import UserError
from embedome.dataset import open_dataset
from embedome.dataset.format import embedding_metadata
from embedome.dataset.part_file import part_info, write_part
from embedome.dataset.verify import verify_dataset
from embedome.merging import joined_files
from embedome.merging.joined_files import FileTask, plan_files
from embedome.merging.verified_parts import ListedPart
from embedome.parquet.reader import ParquetFile
from embedome.parquet.row_file import read_file
from helpers import small_run as line
from helpers.made_dataset import PROVENANCE, random_rows
from helpers.paths import SCRIPTS
from helpers.small_run import Line
from hypothesis import given
from hypothesis import strategies as st

LARGE = 10**9
SHARDS = {"val": 1, "test": 1, "train": 3}


def parts_of(sizes: list[int]) -> list[ListedPart]:
    return [ListedPart("train", Path(str(i)), Path("m"), {"bytes": size}) for i, size in enumerate(sizes)]


@given(st.lists(st.integers(1, 2000), max_size=50), st.integers(0, 1000))
def test_every_part_is_in_one_file_in_order_and_files_keep_their_size(sizes: list[int], size: int) -> None:
    groups = plan_files(parts_of(sizes), size)
    assert [int(part.path.name) for group in groups for part in group] == list(range(len(sizes)))
    totals = [[part.entry["bytes"] for part in group] for group in groups]
    for group in totals:
        assert len(group) == 1 or (3 * sum(group) <= 4 * size and 3 * max(group) < 2 * size)
    # Neighbours that could have gone together did.
    for one, other in itertools.pairwise(totals):
        small = 3 * max(one[-1], other[0]) < 2 * size
        assert not small or 3 * (sum(one) + other[0]) > 4 * size


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A line with parts of up to five sequences, some longer than the model, and its data set of parts as they are."""
    folder = tmp_path_factory.mktemp("joining")
    records = line.random_records(3, [*range(1, 60), 70, 80])
    again = [(f"{name}x", sequence) for name, sequence in records[:4]]
    made = line.prepare(folder / "line", records + again, SHARDS)
    made.embed(line.rough_model(folder / "model"))
    made.merge()
    return made


def write_parts(folder: Path, tables: list[pa.Table], monkeypatch: pytest.MonkeyPatch) -> FileTask:
    """Write parts without their manifest: they are taken for checked."""
    (folder / "split=train").mkdir()
    parts = []
    for number, table in enumerate(tables):
        path = folder / f"{number}.parquet"
        write_part(path, table, embedding_metadata(PROVENANCE, fingerprint="a part's"))
        ends = dict.fromkeys(("first_id", "last_id"), None)
        parts.append(ListedPart("train", path, Path("m"), {"rows": len(table), **ends}))
    monkeypatch.setattr(joined_files, "check_part", lambda part: (None, tables[int(part.path.stem)]))
    return FileTask(folder, parts, PROVENANCE)


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([10, 0, 20], [30]),
        ([5, 9000, 6, 7, 8192, 1], [8192, 8192, 827]),
        ([4000] * 5, [8192, 8192, 3616]),
        ([0, 0], []),
    ],
)
def test_parts_fill_whole_row_groups(
    sizes: list[int], groups: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [random_rows(1000 + number, rows, 4) for number, rows in enumerate(sizes)]
    built = joined_files.build_file(write_parts(tmp_path, tables, monkeypatch))
    path = tmp_path / built.entry["file"]
    file = ParquetFile(path)
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == groups
    assert file.read().equals(pa.concat_tables(tables))
    assert read_file(path).equals(pa.concat_tables(tables))
    info = part_info(path)
    assert (info.rows, info.fingerprint, info.provenance) == (sum(sizes), None, PROVENANCE)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (built.entry["rows"], built.entry["bytes"], built.entry["sha256"]) == (
        *(sum(sizes), path.stat().st_size),
        digest,
    )


def test_a_part_of_other_columns_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = write_parts(tmp_path, [random_rows(0, 9, dimension) for dimension in (4, 5)], monkeypatch)
    with pytest.raises(UserError, match=r"1\.parquet: its columns are not those of .*; rebuild it: rm -f"):
        joined_files.build_file(task)


def test_joined_files_have_the_rows_of_the_parts(made: Line, tmp_path: Path) -> None:
    manifest = made.merge(tmp_path / "joined", file_bytes=LARGE)
    for split in SHARDS:
        names = [path.name for path in sorted((tmp_path / "joined" / f"split={split}").iterdir())]
        assert names == ["duplicates-00000.parquet"] * ("duplicates-00000.parquet" in names) + [
            "part-00000-00000.parquet"
        ]
    files = "split=*/*.parquet"
    order = "order by split, id"
    assert line.rows(tmp_path / "joined" / files, "*", order) == line.rows(made.dataset / files, "*", order)
    before = line.snapshot(made.dataset)
    after = line.snapshot(tmp_path / "joined")
    assert before["_skipped.parquet"] == after["_skipped.parquet"]
    assert (
        verify_dataset(tmp_path / "joined")["rows"]
        == manifest["rows"]
        == pq.read_metadata(tmp_path / "joined" / "_metadata").num_rows
    )


def test_readers_cut_where_row_groups_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Row groups of three rows.
    monkeypatch.setattr("embedome.dataset.part_file.GROUP_ROWS", 3)
    own = line.prepare(tmp_path / "line", line.random_records(4, range(1, 60)), SHARDS)
    own.embed(line.rough_model(tmp_path / "model"))
    manifest = own.merge(file_bytes=LARGE)
    file = manifest["splits"]["train"]["files"][0]
    metadata = pq.read_metadata(own.dataset / file["file"])
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert file["row_groups"] == sizes
    assert set(sizes[:-1]) == {3}
    assert len(sizes) > 4
    data = open_dataset(own.dataset)
    assert [len(piece) for piece in data.pieces("train")] == sizes
    ids = [name for table in data.tables(["id"], "train") for name in table["id"].to_pylist()]
    assert ids == [name for (name,) in line.rows(own.dataset / "split=train" / "*.parquet", "id", "order by id")]


def test_ids_stay_sorted_within_and_between_files(made: Line, tmp_path: Path) -> None:
    sizes = [path.stat().st_size for path in (made.dataset / "split=train").glob("part-*")]
    made.merge(tmp_path / "joined", file_bytes=3 * max(sizes))
    paths = sorted((tmp_path / "joined" / "split=train").glob("part-*"))
    assert 1 < len(paths) < len(sizes)
    ids = [name for path in paths for (name,) in line.rows(path, "id")]
    assert ids == sorted(set(ids))


@pytest.mark.slow
def test_threads_and_processes_give_the_same_bytes(made: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = None
    for threads in (1, 4):
        made.merge(tmp_path / str(threads), threads=threads, file_bytes=LARGE)
        expected = expected or line.snapshot(tmp_path / str(threads))
        assert line.snapshot(tmp_path / str(threads)) == expected
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    monkeypatch.setattr(DaskWorkers, "start", lambda self: LocalCluster(n_workers=2, dashboard_address=None))
    made.merge(tmp_path / "processes", file_bytes=LARGE)
    assert line.snapshot(tmp_path / "processes") == expected


def test_a_damaged_part_is_named_and_nothing_is_published(made: Line, tmp_path: Path) -> None:
    own = made.copy(tmp_path / "line")
    path = own.folder / "embeddings" / "train" / "00001-00001.parquet"
    line.flip(path, line.page_byte(path, 0, 0))
    before = line.snapshot(own.dataset)
    with pytest.raises(UserError, match=r"00001-00001\.parquet: changed since it was written"):
        own.merge(file_bytes=LARGE)
    assert line.snapshot(own.dataset) == before


def test_files_of_residues_stay_as_they_are(made: Line, tmp_path: Path) -> None:
    rich = line.prepare(tmp_path / "line", line.random_records(5, range(1, 30)), SHARDS)
    rich.embed(line.rough_model(tmp_path / "model"), line.EmbedSettings(per_residue=True))
    rich.merge(file_bytes=LARGE)
    for path in rich.dataset.glob("_residues/*/*.parquet"):
        assert path.samefile(rich.folder / "embeddings" / path.parent.name[6:] / path.name.removeprefix("part-"))
    assert verify_dataset(rich.dataset)["rows"] == 29
