"""HDF5 files are read by the calls of the programs that want them; no two proteins have one key."""

import h5py
import numpy as np
import pyarrow as pa
import pytest
from embedome.cli.main import main
from embedome.common.errors import UserError
from embedome.dataset import open_dataset
from embedome.dataset.export_arrays import export_hdf5
from embedome.dataset.format import embedding_metadata
from embedome.dataset.hdf5_keys import make_key
from embedome.dataset.part_file import write_part
from embedome.embedding.settings import EmbedSettings
from helpers.made_dataset import PROVENANCE, random_rows
from helpers.small_run import prepare, random_records, rough_model

NAMES = [".", "P1/2-30", "UniRef50_P7", "sp|P12345|A_HUMAN", "tr|Q2|Q2_MOUSE", "x|y|z"]
KEYS = {
    "accession": ["_", "P1_2-30", "UniRef50_P7", "P12345", "Q2", "x|y|z"],
    "id": ["_", "P1_2-30", "UniRef50_P7", "sp|P12345|A_HUMAN", "tr|Q2|Q2_MOUSE", "x|y|z"],
    "number": ["0", "1", "2", "3", "4", "5"],
}


def one_file(path, ids):
    """A data set of one file with these ids, which sort as they stand."""
    table = random_rows(0, len(ids), 4)
    table = table.set_column(0, table.schema.field("id"), pa.array(ids, pa.string()))
    write_part(path, table, embedding_metadata(PROVENANCE))
    return open_dataset(path)


@pytest.mark.parametrize("kind", KEYS)
def test_each_key_is_as_asked_and_has_the_id(tmp_path, kind):
    data = one_file(tmp_path / "in.parquet", NAMES)
    export_hdf5(data, tmp_path / "x.h5", key=kind)
    with h5py.File(tmp_path / "x.h5") as file:
        found = {key: dict(entry.attrs) for key, entry in file.items()}
        assert found == {key: {"original_id": name} for key, name in zip(KEYS[kind], NAMES, strict=True)}
        for key, name in zip(KEYS[kind], NAMES, strict=True):
            assert np.array_equal(file[key][:], data.get([name])[0])
    assert make_key("sp||A") == "sp||A"


def as_biotrainer(path):
    """Vectors by id: its dictionary is over the attribute, whatever the keys are."""
    file = h5py.File(path, "r")
    return {file[index].attrs["original_id"]: np.array(embedding) for index, embedding in file.items()}


def as_gopredsim(path):
    """Keys one after the other, each named by the attribute."""
    embeddings = {}
    with h5py.File(path, "r") as file:
        for _, embedding in file.items():
            original_id = embedding.attrs["original_id"]
            embeddings[original_id] = np.array(embedding)
    return embeddings


@pytest.mark.parametrize("read", [as_biotrainer, as_gopredsim])
@pytest.mark.parametrize("kind", KEYS)
def test_programs_that_go_by_the_attribute_read_vectors(tmp_path, read, kind):
    data = one_file(tmp_path / "in.parquet", NAMES)
    export_hdf5(data, tmp_path / "x.h5", key=kind)
    found = read(tmp_path / "x.h5")
    assert list(map(type, found)) == [str] * len(NAMES)
    assert found.keys() == set(NAMES)
    assert all(np.array_equal(found[name], data.get([name])[0]) for name in NAMES)


@pytest.mark.parametrize("read", [as_biotrainer, as_gopredsim])
@pytest.mark.parametrize("kind", ["accession", "number"])
def test_programs_that_go_by_the_attribute_read_residues(tmp_path, read, kind):
    records = random_records(5, range(20, 40))
    line = prepare(tmp_path / "run", [*records, ("copy", records[3][1])])
    line.embed(rough_model(tmp_path / "model"), EmbedSettings(per_residue=True))
    line.merge()
    data = open_dataset(line.dataset)
    export_hdf5(data, tmp_path / "r.h5", residues=True, key=kind)
    found = read(tmp_path / "r.h5")
    lengths = {name: len(sequence) for name, sequence in [*records, ("copy", records[3][1])]}
    assert {name: len(matrix) for name, matrix in found.items()} == lengths
    assert all(np.array_equal(found[name], data.residues([name])[0]) for name in lengths)


@pytest.mark.parametrize(
    ("ids", "kind", "message"),
    [
        (["sp|P1|A", "tr|P1|A"], "accession", r"2 ids have one key, 'P1': 'sp\|P1\|A', 'tr\|P1\|A'; 1 keys are such"),
        (["a/b", "a_b"], "accession", "'a_b': 'a/b', 'a_b'; 1 keys are such. Choose --key id or --key number"),
        (["a/b", "a_b"], "id", "'a_b': 'a/b', 'a_b'; 1 keys are such. Choose --key number"),
        (["P1"], "name", "no key 'name'; expected one of accession, id, number"),
    ],
)
def test_two_ids_of_one_key_are_refused_before_anything_is_written(tmp_path, ids, kind, message):
    data = one_file(tmp_path / "in.parquet", ids)
    with pytest.raises(UserError, match=message):
        export_hdf5(data, tmp_path / "x.h5", key=kind)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_what_is_refused_goes_with_another_key(tmp_path):
    data = one_file(tmp_path / "in.parquet", ["a/b", "a_b", "sp|P1|A", "tr|P1|A"])
    for kind in ("number",):
        export_hdf5(data, tmp_path / "x.h5", key=kind)
        assert as_gopredsim(tmp_path / "x.h5").keys() == {"a/b", "a_b", "sp|P1|A", "tr|P1|A"}


def test_the_command_takes_the_key(tmp_path, capsys):
    one_file(tmp_path / "in.parquet", ["sp|P1|A", "tr|P1|A"])
    main(["export", str(tmp_path / "in.parquet"), str(tmp_path / "x.h5"), "--key", "id"])
    with h5py.File(tmp_path / "x.h5") as file:
        assert list(file) == ["sp|P1|A", "tr|P1|A"]
    main(["export", str(tmp_path / "in.parquet"), str(tmp_path / "x.h5"), "--key", "number"])
    assert "x.h5: is there already, an export of embedome, and is replaced" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "in.parquet"), str(tmp_path / "x.npy"), "--key", "id"])
    assert "--key goes with --format hdf5" in capsys.readouterr().err
