"""Streams, Dask, PyTorch and FAISS over data sets of many files yield every row once; only what is needed is read."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from embedome.common.errors import UserError
from embedome.dataset import open_dataset
from embedome.dataset.format import embedding_metadata
from embedome.dataset.manifest import read_manifest, write_manifest
from embedome.dataset.part_file import write_part
from embedome.parquet.vectors import GROUP_ROWS
from helpers.made_dataset import PROVENANCE, make_dataset, random_rows
from helpers.paths import ROOT
from helpers.processes import output_of, python_command
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from torch.utils.data import DataLoader

SPLITS = {"val": [300, 0, 7], "test": [0], "train": [GROUP_ROWS + 900, 40, 2 * GROUP_ROWS, 1]}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="bytes read are counted in /proc/self/io")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("reading"), SPLITS)


@pytest.fixture(scope="module")
def data(folder):
    return open_dataset(folder)


def duck(folder: Path, split: str, columns: str) -> dict[str, np.ndarray]:
    """Columns of a split in the order of its files, as DuckDB reads them."""
    files = sorted(str(path) for path in folder.glob(f"split={split}/*.parquet"))
    return duckdb.sql(
        f"select {columns} from read_parquet({files}, file_row_number=true, filename=true) "
        "order by filename, file_row_number"
    ).fetchnumpy()


@pytest.fixture(scope="module")
def truth(folder):
    """Ids, vectors and other columns by split, by DuckDB."""
    found = {split: duck(folder, split, "id, embedding, length, taxid, state") for split in SPLITS}
    for columns in found.values():
        empty = np.empty((0, 8), np.float16)
        columns["embedding"] = np.stack(columns["embedding"]).astype(np.float16) if len(columns["id"]) else empty
    return found


def read_bytes(work: Callable[[], object]) -> int:
    """Bytes that a piece of work reads from files."""

    def count() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])

    work()  # what is imported on the way is not its own
    before = count()
    work()
    return count() - before


# Matrices and batches


@pytest.mark.parametrize("threads", [1, 3])
def test_matrices_of_files_of_many_row_groups(data, truth, threads):
    for split, expected in truth.items():
        pieces = list(data.matrix(split, threads=threads))
        assert [len(ids) for ids, _ in pieces] == [len(vectors) for _, vectors in pieces] == SPLITS[split]
        assert [name for ids, _ in pieces for name in ids] == expected["id"].tolist()
        assert np.array_equal(np.concatenate([vectors for _, vectors in pieces]), expected["embedding"])


@settings(max_examples=15)
@given(rows=st.integers(1, 30_000), threads=st.integers(1, 3))
def test_batches_cross_files_evenly(data, truth, rows, threads):
    rows = max(rows, 50)
    batches = list(data.iter_batches("train", rows, ["taxid", "state", "length"], threads=threads))
    total = sum(SPLITS["train"])
    assert [len(ids) for ids, *_ in batches] == [rows] * (total // rows) + [total % rows] * (total % rows > 0)
    ids, vectors, taxids, states, lengths = zip(*batches, strict=True)
    expected = truth["train"]
    assert [name for names in ids for name in names] == expected["id"].tolist()
    assert np.array_equal(np.concatenate(vectors), expected["embedding"])
    assert [value for array in taxids for value in array.to_pylist()] == expected["taxid"].tolist()
    assert [value for array in states for value in array.to_pylist()] == expected["state"].tolist()
    assert np.array_equal(np.concatenate(lengths), expected["length"])


def test_batches_of_all_splits_come_with_the_split(data, truth):
    found = [
        (name, split)
        for ids, _, splits in data.iter_batches(columns=["split"])
        for name, split in zip(ids, splits.to_pylist(), strict=True)
    ]
    assert found == [(name, split) for split in SPLITS for name in truth[split]["id"]]
    assert list(data.iter_batches("test")) == []


def test_a_reader_that_stops_early_leaves_no_thread(data):
    import threading

    before = threading.active_count()
    batches = data.iter_batches("train", 100, threads=2)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_names_that_are_not_there_are_clear_errors(data):
    there = "id, digest, length, n_residues_used, state, taxid, n_members, embedding"
    for read in (
        lambda: next(data.iter_batches(columns=["organism"])),
        lambda: next(data.tables(["organism"])),
        lambda: data.to_dask_frame(columns=["organism"]),
        lambda: data.to_torch(columns=["organism"]),
    ):
        with pytest.raises(UserError, match=f"no column 'organism'; there are {there}, split"):
            read()
    with pytest.raises(UserError, match=f"no column 'split'; there are {there}$"):
        data.rows(["P0000000"], ["split"])
    for read in (data.iter_batches, data.tables, data.to_dask_frame, data.to_torch, data.to_faiss):
        with pytest.raises(UserError, match="no split 'dev'; there are val, test, train"):
            next(iter(read(["id"], "dev") if read == data.tables else read("dev")))
    with pytest.raises(UserError, match="no vectors of pooling 'max'; there are mean"):
        data.to_torch(pooling="max")
    with pytest.raises(UserError, match="batches of 0 rows; expected 1 or more"):
        next(data.iter_batches(rows=0))


def test_a_file_with_other_rows_than_the_manifest_says_is_an_error(folder, tmp_path):
    copy = make_dataset(tmp_path / "copy", {"train": [20]})
    manifest = read_manifest(copy)
    manifest["splits"]["train"]["files"][0] |= {"rows": 21}
    write_manifest(copy, manifest)
    for read in (open_dataset(copy).matrix, open_dataset(copy).iter_batches):
        with pytest.raises(UserError, match=r"part-00000-00000.parquet: 20 rows, but 21 in the manifest"):
            next(read())


PEAK = """
from embedome.dataset import open_dataset
from embedome.common.process import peak_memory
data = open_dataset(sys.argv[1])
rows = sum(len(ids) for ids, vectors in data.iter_batches(rows=1000, threads=2))
print(rows, peak_memory())
"""


@pytest.mark.slow
def test_memory_of_batches_does_not_grow_with_the_data_set(tmp_path):
    files, again, peaks = 6, 6, []
    folder = make_dataset(tmp_path, {"train": [GROUP_ROWS] * files}, 512)
    manifest = read_manifest(folder)
    for times in (1, again):
        train = manifest["splits"]["train"]
        listed = {**train, "rows": train["rows"] * times, "files": train["files"] * times}
        write_manifest(folder, {**manifest, "splits": {"train": listed}})
        rows, peak = map(int, output_of(PEAK, folder).split())
        assert rows == GROUP_ROWS * files * times
        peaks.append(peak)
    grown = (again - 1) * files * GROUP_ROWS * 512 * 2
    assert peaks[1] - peaks[0] < grown / 4, peaks


# Bytes read


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A data set whose row groups hold 8 MB of vectors, in pages of 1 MB."""
    return make_dataset(tmp_path_factory.mktemp("wide"), {"train": [2 * GROUP_ROWS, GROUP_ROWS]}, 512)


def stored_bytes(folder: Path, *columns: str) -> int:
    """Bytes of columns in all files, by DuckDB."""
    files = f"parquet_metadata('{folder}/split=*/*.parquet')"
    rows = duckdb.sql(f"select path_in_schema, total_compressed_size from {files}").fetchall()
    return sum(size for name, size in rows if name in columns)


@LINUX
def test_ids_and_lengths_are_read_without_the_vectors(wide):
    data = open_dataset(wide)
    scalars = stored_bytes(wide, "id", "length")
    found = read_bytes(lambda: [len(table) for table in data.tables(["id", "length"])])
    # Of each file the last 64 KiB are read for the footer.
    assert found < scalars + 2 * 2**16 + 50_000
    frame = data.to_dask_frame(columns=["id", "length"])
    assert read_bytes(lambda: frame.compute(scheduler="synchronous")) < scalars + 2 * 2**16 + 200_000
    assert data.describe()["bytes"] > 20 * found


@LINUX
def test_get_reads_the_pages_that_are_needed(wide):
    data = open_dataset(wide)
    ids = ["P0000003", "P0012345", "P0020000"]
    found = read_bytes(lambda: data.get(ids))
    # A page of 1 MiB for each, 256 bytes for each page passed over, footers, ids (those of the row groups twice).
    assert found < 3 * 2**20 + 30 * 256 + 2 * 2**16 + 2 * stored_bytes(wide, "id") + 20_000
    table = {
        row[0]: row[1]
        for row in duckdb.sql(
            f"select id, embedding from '{wide}/split=*/*.parquet' where id in {tuple(ids)}"
        ).fetchall()
    }
    assert np.array_equal(data.get(ids), np.array([table[name] for name in ids], np.float16))


@LINUX
def test_a_single_file_is_opened_without_its_vectors(tmp_path):
    path = tmp_path / "all.parquet"
    write_part(path, random_rows(0, GROUP_ROWS + 5, 512), embedding_metadata(PROVENANCE))
    assert read_bytes(lambda: open_dataset(path)) < path.stat().st_size / 20
    data = open_dataset(path)
    assert (len(data), data.splits) == (GROUP_ROWS + 5, ["all"])
    assert sum(data.manifest["splits"]["all"]["states"].values()) == len(data)


def test_rows_of_some_columns_in_the_order_asked_for(data, truth):
    ids = ["P0009999", "P0000001", "P0009999"]
    found = data.rows(ids, ["taxid", "id"])
    assert found.column_names == ["taxid", "id"]
    assert found["id"].to_pylist() == ids
    assert found["taxid"].to_pylist() == [None, 2, None]


# Dask


def test_the_frame_has_the_rows_of_the_array_partition_by_partition(data, truth):
    frame, array = data.to_dask_frame("train"), data.to_dask("train")
    assert [len(frame.get_partition(number)) for number in range(frame.npartitions)] == list(array.chunks[0])
    found = frame.compute(scheduler="synchronous")
    expected = truth["train"]
    assert found["id"].tolist() == expected["id"].tolist()
    assert found["length"].tolist() == expected["length"].tolist()
    assert [
        None if value is None else int(value)
        for value in found["taxid"].astype(object).where(found["taxid"].notna(), None)
    ] == expected["taxid"].tolist()
    assert set(found["split"]) == {"train"}
    assert list(frame.columns) == [*(name for name in data.schema.names if name != "embedding"), "split"]
    assert (frame.dtypes.astype(str) == found.dtypes.astype(str)).all()


def test_a_condition_on_the_frame_selects_of_the_array(data, truth):
    frame, array = data.to_dask_frame("train"), data.to_dask("train")
    short = (frame["length"] < 100).to_dask_array(lengths=array.chunks[0])
    found = array[short].compute(scheduler="synchronous")
    assert np.array_equal(found, truth["train"]["embedding"][truth["train"]["length"] < 100])


def test_frames_without_rows_and_of_vectors(data):
    assert len(data.to_dask_frame("test")) == 0
    with pytest.raises(UserError, match="'embedding' is a column of vectors; to_dask returns them as an array"):
        data.to_dask_frame(columns=["id", "embedding"])


# PyTorch


def rows_of(loader: DataLoader, batches: bool) -> tuple[list[str], np.ndarray, list[int], list[str]]:
    """Ids, vectors, taxids and states that a loader yields, in its order."""
    items = list(loader)
    if not batches:
        items = [([name], vector[None], taxid[None], [state]) for name, vector, taxid, state in items]
    ids = [name for names, *_ in items for name in names]
    vectors = torch.cat([vectors for _, vectors, *_ in items]).numpy()
    taxids = [taxid for _, _, taxids, _ in items for taxid in taxids.tolist()]
    return ids, vectors, taxids, [state for *_, states in items for state in states]


@pytest.mark.parametrize("shuffle", [0, 1000, 10**12])
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.slow
def test_loaders_give_every_row_once(data, truth, workers, shuffle):
    expected = truth["train"]
    stream = data.to_torch("train", rows=256, columns=["taxid", "state"], shuffle=shuffle)
    ids, vectors, taxids, states = rows_of(DataLoader(stream, batch_size=None, num_workers=workers), True)
    assert vectors.dtype == np.float16
    assert sorted(ids) == expected["id"].tolist()
    assert (ids == expected["id"].tolist()) == (workers < 2 and not shuffle)
    order = np.argsort(ids)
    assert np.array_equal(vectors[order], expected["embedding"])
    assert np.array_equal(np.array(taxids)[order], np.ma.filled(np.ma.array(expected["taxid"]), -1))
    assert np.array_equal(np.array(states)[order], expected["state"])


@pytest.mark.parametrize("workers", [0, 2])
def test_single_rows_are_collated_or_not(data, truth, workers):
    stream = data.to_torch("val", columns=["taxid", "state"])
    for batch_size in (None, 50):
        loader = DataLoader(stream, batch_size=batch_size, num_workers=workers)
        ids, vectors, *_ = rows_of(loader, batch_size is not None)
        order = np.argsort(ids)
        assert np.array_equal(np.array(ids)[order], truth["val"]["id"])
        assert np.array_equal(vectors[order], truth["val"]["embedding"])
    ((_, vector, *_), *_) = stream
    assert vector.untyped_storage().nbytes() == 2 * data.dimension


def order_of(stream, workers: int = 0) -> list[str]:
    return [name for names, _ in DataLoader(stream, batch_size=None, num_workers=workers) for name in names]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.slow
def test_a_seed_and_an_epoch_are_an_order(data, workers):
    streams = [data.to_torch("train", rows=64, shuffle=3000, seed=seed) for seed in (1, 1, 2)]
    one, same, other = (order_of(stream, workers) for stream in streams)
    assert one == same == order_of(streams[0], workers)
    assert one != other
    assert sorted(one) == sorted(other)
    streams[0].set_epoch(1)
    assert order_of(streams[0], workers) != one
    streams[0].set_epoch(0)
    assert order_of(streams[0], workers) == one


def test_an_epoch_reaches_workers_that_live_on(data):
    stream = data.to_torch("train", rows=64, shuffle=500)
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    first = [name for names, _ in loader for name in names]
    stream.set_epoch(1)
    assert [name for names, _ in loader for name in names] != first


def test_a_shuffle_moves_rows_far(data):
    places = [int(name[1:]) for name in order_of(data.to_torch("train", rows=512, shuffle=20_000))]
    # Of an order that has nothing to do with the ids the correlation is some 1 / sqrt(25,000).
    assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 0.2
    assert np.mean(np.abs(np.diff(places)) < 10) < 0.01


@settings(max_examples=25)
@given(ranks=st.integers(1, 9), workers=st.integers(1, 4), shuffle=st.integers(0, 1))
@pytest.mark.slow
def test_ranks_and_workers_share_every_row_evenly(data, ranks, workers, shuffle):
    seen, sizes = [], []
    for rank in range(ranks):
        stream = data.to_torch(shuffle=shuffle, seed=3)
        stream.rank, stream.ranks = rank, ranks
        shares = [stream.share(worker, workers) for worker in range(workers)]
        rows = [[(piece.path, row) for piece in share for row in range(piece.start, piece.stop)] for share in shares]
        assert max(map(len, rows)) - min(map(len, rows)) <= 1
        sizes.append(sum(map(len, rows)))
        seen += [row for share in rows for row in share]
    assert max(sizes) - min(sizes) <= 1
    assert len(seen) == len(set(seen)) == len(data)


RANK = """
import torch
from embedome.dataset import open_dataset
from torch.utils.data import DataLoader
folder, rank = sys.argv[1:]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=int(rank), world_size=2)
stream = open_dataset(folder).to_torch("train", rows=100, shuffle=50)
for names, _ in DataLoader(stream, batch_size=None, num_workers=1):
    print(*names, sep="\\n")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_of_torch_distributed_see_every_row_once(tmp_path):
    make_dataset(tmp_path, {"train": [701, 300]})
    ranks = [
        subprocess.Popen(python_command(RANK, tmp_path, rank), stdout=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    found = [process.communicate(timeout=100)[0].split() for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    assert sorted(map(len, found)) == [500, 501]
    assert sorted(found[0] + found[1]) == [f"P{number:07d}" for number in range(1001)]


def test_wrong_sizes_are_clear_errors(data):
    with pytest.raises(UserError, match="batches of 0 rows"):
        data.to_torch(rows=0)
    with pytest.raises(UserError, match="a shuffle buffer of -1 rows"):
        data.to_torch(shuffle=-1)


# FAISS


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_neighbours_by_id_equal_scikit_learns(data, truth, metric):
    expected = truth["val"]
    finder = NearestNeighbors(n_neighbors=4, metric={"l2": "sqeuclidean"}.get(metric, metric), algorithm="brute")
    rows = finder.fit(expected["embedding"].astype(np.float32)).kneighbors(
        expected["embedding"][:9].astype(np.float32), return_distance=False
    )
    found = data.to_faiss("val", metric=metric)
    _, ids = found.search(expected["embedding"][:9], 4)
    assert ids == [[expected["id"][row] for row in each] for each in rows]


def test_an_inverted_file_over_many_files_finds_a_row_as_its_own_neighbour(data, truth):
    found = data.to_faiss("train", exact_up_to=1000)
    names = truth["train"]["id"][::999].tolist()
    assert [ids[0] for ids in found.search(data.get(names), 1)[1]] == names


def test_duckdbs_pattern_for_all_folders_has_only_rows_of_proteins_by_their_paths(tmp_path):
    """The query of docs/reading.md, on two data sets, one with per-residue embeddings."""
    text = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
    query = re.search(r'kept = "(.*)"', text)[1]
    expected = 0
    for name, sizes in {"one": {"train": [30], "val": [5]}, "two": {"train": [7], "test": [0]}}.items():
        make_dataset(tmp_path / name, sizes)
        expected += sum(map(sum, sizes.values()))
    folder = tmp_path / "one" / "_residues" / "split=train"
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "one" / "split=train" / "part-00000-00000.parquet", folder / "part-00000.residues.parquet")
    skipped = {"id": ["x"], "digest": ["y"], "length": [1], "reason": ["too-long"]}
    pq.write_table(pa.table(skipped), tmp_path / "two" / "_skipped.parquet")
    options = "union_by_name = true, hive_partitioning = false, filename = true"
    rows = f"read_parquet('{tmp_path}/**/*.parquet', {options})"
    assert duckdb.sql(f"select count(*) from {rows}").fetchall() == [(expected + 31,)]
    assert duckdb.sql(f"select count(*) from {rows} where {query}").fetchall() == [(expected,)]
