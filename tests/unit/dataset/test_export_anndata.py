"""AnnData files: read by anndata where it is installed, and by its published on-disk format everywhere."""

import json

import h5py
import numpy as np
import pytest
from embedome.common.errors import UserError
from embedome.dataset import open_dataset
from embedome.dataset.export_anndata import export_anndata
from helpers.made_dataset import PROVENANCE, make_dataset
from helpers.small_run import rows

SIZES = {"val": [30, 0, 3], "test": [0], "train": [9000, 20]}
COLUMNS = ("digest", "length", "n_residues_used", "taxid", "n_members", "state", "split")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("anndata"), SIZES)


def read_element(entry):
    """An element by what it says of itself, https://anndata.readthedocs.io/en/latest/fileformat-prose.html."""
    kind, version = entry.attrs["encoding-type"], entry.attrs["encoding-version"]
    readers = {
        ("anndata", "0.1.0"): lambda: {name: read_element(each) for name, each in entry.items()},
        ("dict", "0.1.0"): lambda: {name: read_element(each) for name, each in entry.items()},
        ("array", "0.2.0"): lambda: entry[()],
        ("string", "0.2.0"): lambda: entry.asstr()[()],
        ("string-array", "0.2.0"): lambda: entry.asstr()[()],
        ("nullable-integer", "0.1.0"): lambda: np.ma.MaskedArray(
            read_element(entry["values"]), read_element(entry["mask"])
        ).tolist(),
        ("categorical", "0.2.0"): lambda: read_element(entry["categories"])[read_element(entry["codes"])],
        ("dataframe", "0.2.0"): lambda: {
            "index": read_element(entry[entry.attrs["_index"]]),
            **{name: read_element(entry[name]) for name in entry.attrs["column-order"]},
        },
    }
    return readers[kind, version]()


@pytest.mark.parametrize("split", [None, "val", "test"])
def test_the_file_is_one_by_the_published_format(folder, tmp_path, split):
    count = export_anndata(open_dataset(folder), tmp_path / "x.h5ad", split)
    files = folder / f"split={split or '*'}" / "*.parquet"
    expected = (
        {row[0]: row[1:] for row in rows(files, f"id, embedding, {', '.join(COLUMNS)}")} if split != "test" else {}
    )
    with h5py.File(tmp_path / "x.h5ad") as file:
        found = read_element(file)
        assert set(file) == {"X", "obs", "var", "uns", "layers", "obsm", "obsp", "varm", "varp"}
        assert "ordered" in file["obs/state"].attrs
    assert found["X"].dtype == np.float32
    assert found["X"].shape == (count, 8) == (len(expected), 8)
    assert list(found["var"]["index"]) == [str(number) for number in range(8)]
    obs = found["obs"]
    assert list(obs) == ["index", *COLUMNS]
    assert set(obs["index"]) == set(expected)
    for row, name in enumerate(obs["index"]):
        vector, *others = expected[name]
        assert np.array_equal(found["X"][row], np.array(vector, np.float32))
        assert [obs[column][row] for column in COLUMNS] == others
    assert json.loads(found["uns"]["provenance"]) == PROVENANCE
    assert found["uns"]["vectors"] == "mean"
    order = [name for table in open_dataset(folder).tables(["id"], split) for name in table["id"].to_pylist()]
    assert list(obs["index"]) == order


def test_anndata_reads_it(folder, tmp_path):
    anndata = pytest.importorskip("anndata", reason="anndata is not installed; its format is tested without it")
    export_anndata(open_dataset(folder), tmp_path / "x.h5ad")
    found, data = anndata.read_h5ad(tmp_path / "x.h5ad"), open_dataset(folder)
    assert found.shape == (len(data), 8)
    assert np.array_equal(found.X[:50], data.get(list(found.obs_names[:50])).astype(np.float32))
    assert list(found.obs.columns) == list(COLUMNS)
    assert found.obs["taxid"].isna().sum() == sum(table["taxid"].null_count for table in data.tables(["taxid"]))


def test_the_same_data_set_gives_the_same_bytes_and_a_file_is_not_replaced(folder, tmp_path):
    for name in ("1.h5ad", "2.h5ad"):
        export_anndata(open_dataset(folder), tmp_path / name, "val")
    assert (tmp_path / "1.h5ad").read_bytes() == (tmp_path / "2.h5ad").read_bytes()
    with pytest.raises(UserError, match=r"1\.h5ad: is there already"):
        export_anndata(open_dataset(folder), tmp_path / "1.h5ad")


def test_a_run_that_fails_leaves_nothing(folder, tmp_path, monkeypatch):
    data = open_dataset(folder)

    def broken(self, *_, **__):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(type(data), "iter_batches", broken)
    with pytest.raises(KeyboardInterrupt):
        export_anndata(data, tmp_path / "x.h5ad")
    assert list(tmp_path.iterdir()) == []
