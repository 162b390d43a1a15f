"""`describe` and `verify` of single files: those that `embedome` writes, and what is wrong with others."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from embedome.cli.main import main
from embedome.common.errors import UserError
from embedome.dataset.any_file import describe_any, verify_any
from embedome.dataset.exported_file import look
from embedome.dataset.format import embedding_metadata, embedding_schema
from embedome.parquet.vectors import vector_array
from helpers.processes import crash
from helpers.small_run import fasta_text, flip, random_records, rough_model

RECORDS = [*random_records(3, range(20, 60)), ("copy", random_records(3, range(20, 60))[7][1])]
EXPORTED = ("x.h5", "x.npy")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of `embedome embed`, its per-residue embeddings, and both exports."""
    folder = tmp_path_factory.mktemp("sound")
    (folder / "in.fasta").write_text(fasta_text(RECORDS))
    model, out = rough_model(folder / "model"), folder / "x.parquet"
    options = ["--per-residue", "--workers", "1", "--device", "cpu"]
    main(["embed", str(folder / "in.fasta"), "-m", str(model), "-o", str(out), *options])
    for name in EXPORTED:
        main(["export", str(out), str(folder / name)])
    main(["export", str(out), str(folder / "residues.h5"), "--per-residue"])
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "folder", ignore=shutil.ignore_patterns("model")))


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("x.parquet", ["x.parquet", "x.residues.parquet"]),
        ("x.h5", ["x.h5"]),
        ("residues.h5", ["residues.h5"]),
        ("x.npy", ["x.npy", "x.ids.txt"]),
    ],
)
def test_sound_files_are_described_and_verified(sound: Path, name: str, files: list[str]) -> None:
    about, found = describe_any(sound / name), verify_any(sound / name)
    assert (about["rows"], about["dimension"]) == (len(RECORDS), 32)
    assert (found["rows"], found["files"]) == (len(RECORDS), len(files))
    assert found["bytes"] == sum((sound / each).stat().st_size for each in files)
    if name.endswith((".parquet", ".h5")):
        assert about["provenance"]["model"]["name"] == "rough"


def test_the_command_says_it_in_words_and_as_json(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["describe", str(sound / "x.parquet")])
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["rows"] == "41"
    assert rows["numbers of a vector"] == "32"
    assert rows["split all"] == "41 rows: 1 duplicate, 40 embedded"
    assert rows["model name"] == "rough"
    main(["describe", str(sound / "x.npy")])
    assert "not in this file" in capsys.readouterr().out
    main(["verify", str(sound / "x.h5"), "--json"])
    assert json.loads(capsys.readouterr().out) == verify_any(sound / "x.h5")


def refused(path: Path, capsys: pytest.CaptureFixture[str], command: str = "verify") -> str:
    """What a command says on a file that it refuses, in one line that names it."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([command, str(path)])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    [line] = said.err.splitlines()
    return line


@pytest.mark.parametrize("command", ["describe", "verify"])
@pytest.mark.parametrize("name", ["x.parquet", "x.h5", "x.npy"])
@pytest.mark.parametrize("size", [0, 3, 100, 1000])
def test_truncated_files_are_one_line(
    folder: Path, name: str, size: int, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:size])
    line = refused(path, capsys, command)
    assert f"{path}: not a readable " in line


@pytest.mark.parametrize("command", ["describe", "verify"])
@pytest.mark.parametrize("name", ["x.parquet", "x.h5", "x.npy", "x.csv", "x.h5ad", "none.parquet"])
def test_foreign_files_are_one_line(
    tmp_path: Path, name: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if name == "x.parquet":
        pq.write_table(pa.table({"id": ["a"], "embedding": [1.0]}), path)
    elif name == "x.h5":
        with h5py.File(path, "w") as file:
            file["P12345"] = np.zeros(3, np.float16)
    elif name == "x.npy":
        np.save(path, np.zeros((2, 3)))
    elif name != "none.parquet":
        path.write_text("id\n")
    assert f"{path}: " in refused(path, capsys, command)


@pytest.mark.parametrize("vectors", [pa.array([1.0]), vector_array(np.ones((1, 3), np.float16))])
def test_metadata_that_lacks_what_is_written_is_one_line(
    tmp_path: Path, vectors: pa.Array, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pa.table({"id": ["a"], "embedding": vectors})
    pq.write_table(table.replace_schema_metadata({"embedome": '{"format": 2}'}), tmp_path / "x.parquet")
    for command in ("describe", "verify"):
        assert "x.parquet: damaged (its metadata lacks" in refused(tmp_path / "x.parquet", capsys, command)


def test_a_provenance_that_does_not_say_whether_there_are_residues_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = embedding_schema(3).empty_table()
    metadata = embedding_metadata({"pooling": ["mean"]})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    for command in ("describe", "verify"):
        assert "its provenance does not say per_residue" in refused(tmp_path / "x.parquet", capsys, command)


def test_a_damaged_header_of_numpy_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (folder / "x.npy").read_bytes()
    (folder / "x.npy").write_bytes(data.replace(b"False, 'shape': (41, 32), }", b"False, 'shape': (41, 32(, }"))
    assert "x.npy: not a readable NumPy file" in refused(folder / "x.npy", capsys)


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write a file again with other rows, and the metadata that it had."""
    table, metadata = pq.read_table(path), pq.read_metadata(path).metadata
    pq.write_table(change(table).replace_schema_metadata({b"embedome": metadata[b"embedome"]}), path)


def with_column(name: str, make: Callable[[pa.Table], pa.Array]) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), table.schema.field(name), make(table))


def first_vector_infinite(table: pa.Table) -> pa.Array:
    vectors = np.stack(table["embedding"].to_numpy())
    vectors[0, 3] = np.inf
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=table.schema.field("embedding").type)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.take([1, 0, *range(2, len(table))]), "ids are out of order"),
        (lambda table: table.take([0, 0, *range(2, len(table))]), "ids are out of order, or one is there twice"),
        (with_column("state", lambda table: pa.array(["lost"] * len(table))), "a state is none of embedded"),
        (
            with_column("n_residues_used", lambda table: pc.add(table["length"], 1).cast("int32")),
            "more residues of a sequence",
        ),
        (with_column("embedding", first_vector_infinite), "a vector is not finite"),
    ],
)
def test_rows_that_embedome_does_not_write_are_found(
    folder: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    rewrite(folder / "x.parquet", change)
    with pytest.raises(UserError, match=re.escape(message)):
        verify_any(folder / "x.parquet")


def test_a_changed_page_is_found(folder: Path) -> None:
    flip(folder / "x.parquet", 1000)
    with pytest.raises(UserError, match=r"x\.parquet: damaged"):
        verify_any(folder / "x.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.slice(1), "not the next sequence of x.parquet"),
        (lambda table: table.slice(0, len(table) - 1), "of x.parquet is missing"),
        (lambda table: pa.concat_tables([table, table.slice(3, 1)]), "not the next sequence"),
    ],
)
def test_per_residue_embeddings_of_other_sequences_are_found(
    folder: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    rewrite(folder / "x.residues.parquet", change)
    with pytest.raises(UserError, match=rf"x\.residues\.parquet: .*{re.escape(message)}"):
        verify_any(folder / "x.parquet")
    (folder / "x.residues.parquet").unlink()
    with pytest.raises(UserError, match=r"x\.residues\.parquet: no such file"):
        verify_any(folder / "x.parquet")


def test_wrong_numbers_of_an_hdf5_file_are_found(folder: Path) -> None:
    path = folder / "x.h5"
    with h5py.File(path, "a") as file:
        first, second = list(file)[:2]
        kept = file[first][()]
        file[first][3] = np.nan
    with pytest.raises(UserError, match=r"x\.h5: at '.*': a vector is not finite"):
        verify_any(path)
    with h5py.File(path, "a") as file:
        file[first][...] = kept
        file[first].attrs["original_id"] = file[second].attrs["original_id"]
    with pytest.raises(UserError, match=r"x\.h5: the id '.*' is there twice"):
        verify_any(path)
    with h5py.File(path, "a") as file:
        del file[first].attrs["original_id"]
    with pytest.raises(UserError, match=r"x\.h5: not a readable HDF5 file"):
        verify_any(path)


def test_a_file_that_crashes_the_library_is_damaged(sound: Path) -> None:
    """As HDF5's does on some changed bytes."""
    with pytest.raises(UserError, match=r"x\.h5: not a readable HDF5 file \(its library has crashed\); restore it"):
        look(sound / "x.h5", crash)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "41 vectors, but 40 ids"),
        (lambda lines: [*lines, "more\n"], "41 vectors, but 42 ids"),
        (lambda lines: [lines[1], *lines[1:]], "is there twice"),
        (lambda lines: ["\n", *lines[1:]], "or empty"),
    ],
)
def test_ids_that_do_not_fit_a_matrix_are_found(
    folder: Path, change: Callable[[list[str]], list[str]], message: str
) -> None:
    ids = folder / "x.ids.txt"
    ids.write_text("".join(change(ids.read_text().splitlines(keepends=True))))
    with pytest.raises(UserError, match=rf"x\.npy: .*{message}"):
        verify_any(folder / "x.npy")
    ids.unlink()
    with pytest.raises(UserError, match=r"x\.ids\.txt: no such file"):
        describe_any(folder / "x.npy")
