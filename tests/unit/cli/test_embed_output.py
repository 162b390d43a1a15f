"""`embedome embed -o`: the name says the format; vectors of other settings are not replaced without a word."""

import h5py
import pandas as pd
import pytest
from embedome.cli.main import main
from embedome.dataset import open_dataset
from helpers.small_run import fasta_text, random_records, rough_model


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    (folder / "in.fasta").write_text(fasta_text(random_records(2, range(20, 30))))
    return folder / "in.fasta", rough_model(folder / "model")


def embed(inputs, out, *options):
    fasta, model = inputs
    main(["embed", str(fasta), "-m", str(model), "-o", str(out), "--workers", "1", "--device", "cpu", *options])


def test_the_name_says_the_format(inputs, tmp_path, capsys):
    embed(inputs, tmp_path / "x.h5")
    embed(inputs, tmp_path / "x.csv")
    said = capsys.readouterr()
    assert f"{tmp_path}/x.csv: 10 proteins\n" in said.out
    # The second run makes the same rows again.
    assert "are replaced" not in said.err
    data = open_dataset(tmp_path / "x.parquet")
    ids = [name for table in data.tables(["id"]) for name in table["id"].to_pylist()]
    assert len(ids) == 10
    with h5py.File(tmp_path / "x.h5") as file:
        assert all((file[name][:] == data.get([name])[0]).all() for name in ids)
    frame = pd.read_csv(tmp_path / "x.csv", index_col="id")
    assert (frame.loc[ids].to_numpy("float16") == data.get(ids)).all()


@pytest.mark.parametrize("name", ["-", "x.txt", "x.fasta", "x.csv.gz"])
def test_another_name_is_an_error_that_says_what_is_possible(inputs, tmp_path, name, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        embed(inputs, name)
    said = capsys.readouterr().err
    assert "expected a name that ends in .parquet, .npy, .h5, .hdf5, .h5ad, .csv, .tsv" in said
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_there_is_an_error_before_the_work(inputs, tmp_path, capsys):
    (tmp_path / "x.csv").write_text("mine")
    with pytest.raises(SystemExit):
        embed(inputs, tmp_path / "x.csv")
    assert "x.csv: is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_vectors_of_other_settings_are_not_replaced_without_a_word(inputs, tmp_path, capsys):
    embed(inputs, tmp_path / "x.parquet")
    embed(inputs, tmp_path / "x.parquet", "--pooling", "max", "--layer", "0")
    said = capsys.readouterr().err
    assert "x.parquet: holds vectors of another layer, pooling; they are replaced in the end" in said
