"""`embedome export`: other forms hold every row of the data set, and are whole or not there."""

from collections import namedtuple
from pathlib import Path

import duckdb
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedome.cli.main import main
from embedome.common.errors import UserError
from embedome.common.json_files import canonical_json
from embedome.dataset import Dataset, open_dataset
from embedome.dataset.export_arrays import export_hdf5, export_npy
from embedome.dataset.export_partitions import export_partitions
from embedome.dataset.format import embedding_metadata
from embedome.dataset.part_file import write_part
from embedome.embedding.settings import EmbedSettings
from embedome.parquet.vectors import GROUP_ROWS
from embedome.splits.split_methods import SplitSettings
from helpers.made_dataset import PROVENANCE, make_dataset, random_rows
from helpers.small_run import prepare, random_records, rough_model, rows, vectors

SIZES = {"val": [30, 0, 3], "test": [0], "train": [GROUP_ROWS + 5, 20]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("export"), SIZES)


@pytest.fixture(scope="module")
def per_residue(tmp_path_factory):
    """A data set with per-residue embeddings, and duplicates in other splits than their sequences."""
    folder = tmp_path_factory.mktemp("residues")
    records = random_records(5, range(20, 70))
    records += [(f"copy{i}", records[i][1]) for i in range(0, 50, 3)]
    line = prepare(folder / "run", records, plan=SplitSettings("bionemo", 1, 0.3, 0.3))
    line.embed(rough_model(folder / "model"), EmbedSettings(per_residue=True))
    line.merge()
    return line.dataset


@pytest.mark.parametrize("split", [None, "val", "test", "train"])
def test_npy_is_the_matrix_with_the_ids_beside_it(folder, tmp_path, split):
    out = tmp_path / "x.npy"
    count = export_npy(open_dataset(folder), out, split)
    expected = vectors(folder / f"split={split or '*'}" / "*.parquet") if split != "test" else {}
    matrix = np.load(out, mmap_mode="r")
    ids = (tmp_path / "x.ids.txt").read_text().splitlines()
    assert matrix.dtype == np.float16
    assert matrix.shape == (count, 8) == (len(ids), 8) == (len(expected), 8)
    assert set(ids) == set(expected)
    assert all(np.array_equal(matrix[row], expected[name]) for row, name in enumerate(ids))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.ids.txt", "x.npy"]


def test_hdf5_is_read_as_uniprots_files_are(folder, tmp_path):
    out = tmp_path / "per-protein.h5"
    assert export_hdf5(open_dataset(folder), out, "val") == sum(SIZES["val"])
    expected = vectors(folder / "split=val" / "*.parquet")
    with h5py.File(out, "r") as file:
        found = {name: np.array(vector) for name, vector in file.items()}
        assert file.attrs["provenance"] == canonical_json(PROVENANCE).decode()
    assert found.keys() == expected.keys()
    for name, vector in found.items():
        assert (vector.dtype, vector.shape) == (np.float16, (8,))
        assert np.array_equal(vector, expected[name])


@pytest.mark.parametrize("split", [None, "val", "test", "train"])
def test_hdf5_of_residues_has_those_of_duplicates_too(per_residue, tmp_path, split):
    data = open_dataset(per_residue)
    count = export_hdf5(data, tmp_path / "r.h5", split, residues=True)
    found = rows(per_residue / f"split={split or '*'}" / "*.parquet", "id, state, n_residues_used")
    assert len(found) == count
    assert "duplicate" in {state for _, state, _ in found}
    with h5py.File(tmp_path / "r.h5", "r") as file:
        assert set(file) == {name for name, *_ in found}
        for name, _, used in found:
            matrix = file[name][:]
            assert (matrix.dtype, matrix.shape) == (np.float16, (used, 32))
            assert np.array_equal(matrix, data.residues([name])[0])


def test_the_same_data_set_gives_the_same_bytes(folder, per_residue, tmp_path):
    for number in (1, 2):
        export_npy(open_dataset(folder), tmp_path / f"{number}.npy")
        export_hdf5(open_dataset(folder), tmp_path / f"{number}.h5", "val")
        export_hdf5(open_dataset(per_residue), tmp_path / f"r{number}.h5", residues=True)
    for name in ("{}.npy", "{}.ids.txt", "{}.h5", "r{}.h5"):
        assert (tmp_path / name.format(1)).read_bytes() == (tmp_path / name.format(2)).read_bytes()


def one_file(path: Path, ids: list[str]) -> Dataset:
    """A data set of one file with these ids, which sort as they stand."""
    table = random_rows(0, len(ids), 4)
    table = table.set_column(0, table.schema.field("id"), pa.array(ids, pa.string()))
    write_part(path, table, embedding_metadata(PROVENANCE))
    return open_dataset(path)


@pytest.mark.parametrize("form", ["npy", "hdf5"])
def test_a_run_that_fails_leaves_nothing(folder, tmp_path, form, monkeypatch):
    def broken(self, *_, **__):
        yield ["a"], np.zeros((1, 8), np.float16)
        raise KeyboardInterrupt

    monkeypatch.setattr(Dataset, "iter_batches", broken)
    with pytest.raises(KeyboardInterrupt):
        (export_npy if form == "npy" else export_hdf5)(open_dataset(folder), tmp_path / "x.npy", "train")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_leaves_what_was_there(folder, tmp_path, monkeypatch):
    out = tmp_path / "x.h5"
    export_hdf5(open_dataset(folder), out, "val")
    before = out.read_bytes()
    monkeypatch.setattr(Dataset, "iter_batches", lambda *_, **__: iter([(["a"], np.zeros((1, 9)))]))
    with pytest.raises(UserError, match="the ledger does not close"):
        export_hdf5(open_dataset(folder), out, "train")
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]
    assert out.read_bytes() == before


def test_the_command_says_what_it_wrote(folder, tmp_path, capsys):
    main(["export", str(folder), str(tmp_path / "x.npy"), "--format", "npy", "--split", "val"])
    main(["export", str(folder), str(tmp_path / "x.h5"), "--format", "hdf5", "--split", "val", "--pooling", "mean"])
    assert capsys.readouterr().out == f"{tmp_path}/x.npy: 33 proteins\n{tmp_path}/x.h5: 33 proteins\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}", "{tmp}/x.txt", "--format", "npy"], "x.txt: expected a name that ends in .npy"),
        (
            ["{folder}", "{tmp}/x.npy", "--format", "npy", "--split", "dev"],
            "no split 'dev'; there are val, test, train",
        ),
        (
            ["{folder}", "{tmp}/x.npy", "--format", "npy", "--pooling", "max"],
            "no vectors of pooling 'max'; there are m",
        ),
        (["{folder}", "{tmp}/x.npy", "--format", "npy", "--per-residue"], "--per-residue goes with --format hdf5"),
        (
            ["{folder}", "{tmp}/x.h5", "--format", "hdf5", "--per-residue"],
            "no per-residue embeddings; embed with per_resi",
        ),
        (["{folder}", "{tmp}", "--format", "hdf5"], "is a folder; expected the name of a file to write"),
        (["{folder}/none", "{tmp}/x.h5", "--format", "hdf5"], "no data set there"),
        (["{tmp}/same.parquet", "{tmp}/x.h5", "--format", "hdf5"], "2 ids have one key, 'P1': 'sp|P1|A', 'tr|P1|A'"),
    ],
)
def test_users_errors(folder, tmp_path, arguments, message, capsys):
    one_file(tmp_path / "same.parquet", ["sp|P1|A", "tr|P1|A"])
    with pytest.raises(SystemExit) as caught:
        main(["export", *(argument.format(folder=folder, tmp=tmp_path) for argument in arguments)])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["same.parquet"]


@pytest.mark.parametrize("form", ["npy", "hdf5"])
def test_a_disk_with_too_little_room_is_an_error_before_the_work(folder, tmp_path, form, monkeypatch, capsys):
    usage = namedtuple("Usage", "total used free")
    arguments = ["export", str(folder), str(tmp_path / "x.npy"), "--format", form, "--split", "val"]
    needed = 33 * (8 * 2 + 9 + 500 * (form == "hdf5")) + 20_000
    monkeypatch.setattr("embedome.common.disk_space.shutil.disk_usage", lambda _: usage(0, 0, needed - 1))
    with pytest.raises(SystemExit):
        main(arguments)
    assert "x.npy: needs 0.0 MB, but 0.0 MB are free there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("embedome.common.disk_space.shutil.disk_usage", lambda _: usage(0, 0, needed))
    main(arguments)
    assert (tmp_path / "x.npy").stat().st_size <= needed


def test_a_library_that_is_not_there_is_named(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(SystemExit):
        main(["export", str(folder), str(tmp_path / "x.h5"), "--format", "hdf5"])
    assert "h5py is not installed and needed here: pip install h5py" in capsys.readouterr().err


@pytest.mark.parametrize("column", ["state", "n_members", "taxid"])
def test_partitions_hold_every_row_below_its_value(folder, tmp_path, column):
    if column == "taxid":
        with pytest.raises(UserError, match="the column 'taxid' has more than 100 values"):
            export_partitions(open_dataset(folder), tmp_path / "out", column)
        assert list(tmp_path.iterdir()) == []
        return
    assert export_partitions(open_dataset(folder), tmp_path / "out", column) == len(open_dataset(folder))
    names = "split, id, digest, length, n_residues_used, state, taxid, n_members, embedding"
    query = f"select {names} from read_parquet('{{}}', hive_partitioning = true) order by id"
    expected, found = (
        duckdb.sql(query.format(files)).fetchall()
        for files in (f"{folder}/split=*/*.parquet", f"{tmp_path}/out/split=*/{column}=*/part-*.parquet")
    )
    assert found == expected
    for path in (tmp_path / "out").rglob("*.parquet"):
        ids = [name for (name,) in duckdb.sql(f"select id from read_parquet('{path}')").fetchall()]
        assert ids == sorted(ids)
        assert column not in pq.read_schema(path).names


def test_rows_without_a_value_have_a_partition(tmp_path):
    folder = make_dataset(tmp_path / "small", {"val": [30], "train": [60]})
    assert export_partitions(open_dataset(folder), tmp_path / "out", "taxid", "train") == 60
    nulls = duckdb.sql(f"select count(*) from read_parquet('{tmp_path}/out/*/*/*.parquet') where taxid is null")
    assert nulls.fetchall() == [(20,)]
    assert (tmp_path / "out/split=train/taxid=__HIVE_DEFAULT_PARTITION__").is_dir()
    with pytest.raises(UserError, match="is there already; expected the name of a new folder"):
        export_partitions(open_dataset(folder), tmp_path / "out", "state")


@pytest.mark.parametrize("column", ["id", "embedding"])
def test_columns_that_differ_from_row_to_row_are_refused(folder, tmp_path, column):
    with pytest.raises(UserError, match=f"files cannot be divided by '{column}'"):
        export_partitions(open_dataset(folder), tmp_path / "out", column)


def test_a_split_without_rows_is_a_folder_without_files(folder, tmp_path):
    assert export_partitions(open_dataset(folder), tmp_path / "out", "state", "test") == 0
    assert list((tmp_path / "out").rglob("*")) == []
