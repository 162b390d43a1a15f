"""Each command, and what of the user's may be in its way: it ends in one line, and nothing has changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedome.cli.main import main
from embedome.dataset import open_dataset
from embedome.models.create import make_untrained
from helpers.obstacles import OBSTACLES, snapshot
from helpers.small_run import Line, fasta_text, prepare, random_records, rough_model

SIZES = {"layers": 1, "hidden": 32, "heads": 4, "feed_forward": 32}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What commands read: sequences, models, a data set with its catalog, labels."""
    folder = tmp_path_factory.mktemp("made")
    records = random_records(2, range(20, 40))
    (folder / "in.fasta").write_text(fasta_text(records))
    (folder / "labels.tsv").write_text("id\tlabel\n" + "".join(f"{name}\tx\n" for name, _ in records))
    line, model = prepare(folder / "run", records), rough_model(folder / "model")
    line.embed(model)
    line.merge()
    make_untrained(folder / "t5", "small", "prott5nv", {**SIZES, "positions": 64}, 0)
    return {
        "fasta": folder / "in.fasta",
        "labels": folder / "labels.tsv",
        "data": line.dataset,
        "model": model,
        "t5": folder / "t5",
    }


WRITE_FILES = {
    "embed": "embed {fasta} -m {model} -o {out} --workers 1 --device cpu",
    "score": "models score {fasta} -m {model} -o {out} --device cpu",
    "translate": "translate {fasta} -m {t5} -o {out} --device cpu --max-length 9",
    "target": "translate {fasta} -m {t5} -o {out} --device cpu --target {fasta}",
    "npy": "export {data} {out}.npy --format npy",
    "hdf5": "export {data} {out} --format hdf5",
    "nemo": "models export {model} {out}",
    "bench": "bench -m {model} -o {out} --seconds 0.1 --device cpu",
}
WRITE_FOLDERS = {
    "annotate": "annotate {data} -l {labels} -o {out}",
    "parquet": "export {data} {out} --format parquet --partition-by state",
    "init": "models init esm1nv {out} --layers 1 --hidden 32 --heads 4 --feed-forward 32",
    "import": "models import {nemo} {out}",
}
# Those whose own output they write over again.
REPEATABLE = ("embed", "score", "target", "hdf5", "bench", "annotate")


def run(command: str, made: dict[str, Path], out: Path) -> None:
    nemo = out.with_name("x.nemo")
    main([word.format(out=out, nemo=nemo, **made) for word in (WRITE_FILES | WRITE_FOLDERS)[command].split()])


def refused(command: str, made: dict[str, Path], out: Path, capsys: pytest.CaptureFixture) -> str:
    """The one line in which a command ends; nothing beside the output may have changed."""
    before = snapshot(out.parent)
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(command, made, out)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert snapshot(out.parent) == before
    return said.splitlines()[-1].partition(" ERROR ")[2]


def final(command: str, out: Path) -> Path:
    return Path(f"{out}.npy") if command == "npy" else out


@pytest.mark.parametrize("kind", [*OBSTACLES, "file"])
@pytest.mark.parametrize("command", [*WRITE_FILES, *WRITE_FOLDERS])
def test_nothing_is_written_over(
    made: dict[str, Path], tmp_path: Path, command: str, kind: str, capsys: pytest.CaptureFixture
) -> None:
    path = final(command, tmp_path / "out")
    (OBSTACLES | {"file": lambda path: path.write_text("precious")})[kind](path)
    message = refused(command, made, tmp_path / "out", capsys)
    assert message.startswith(str(path))


def dropped(out: Path) -> Path:
    return out.with_name(f"{out.name}.dropped.tsv")


def residues(out: Path) -> Path:
    return out.with_name(f"{out.stem}.residues.parquet")


@pytest.mark.parametrize("kind", [*OBSTACLES, "file", "file like it"])
@pytest.mark.parametrize("command", ["embed", "score", "translate", "target"])
def test_a_list_of_the_users_beside_the_output_stays(
    made: dict[str, Path], tmp_path: Path, command: str, kind: str, capsys: pytest.CaptureFixture
) -> None:
    makers = {
        "file": lambda path: path.write_text("precious"),
        "file like it": lambda path: path.write_text("id\tstate\nprecious\t1\n"),
    }
    (OBSTACLES | makers)[kind](dropped(tmp_path / "out"))
    assert refused(command, made, tmp_path / "out", capsys).startswith(str(dropped(tmp_path / "out")))


@pytest.mark.parametrize("kind", [*OBSTACLES, "file"])
@pytest.mark.parametrize("other", ["out.work", "out.residues.parquet"])
def test_what_is_beside_the_file_of_embed_stays(
    made: dict[str, Path], tmp_path: Path, other: str, kind: str, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    (OBSTACLES | {"file": lambda path: path.write_text("precious")})[kind](tmp_path / other)
    monkeypatch.setitem(WRITE_FILES, "embed", WRITE_FILES["embed"] + " --per-residue")
    assert refused("embed", made, tmp_path / "out", capsys).startswith(str(tmp_path / other))


@pytest.mark.parametrize("mine", ["lock", "filter.json", "catalog/part-00000.parquet"])
def test_a_folder_that_looks_like_work_under_way_stays(
    made: dict[str, Path], tmp_path: Path, mine: str, capsys: pytest.CaptureFixture
) -> None:
    work = tmp_path / "out.work"
    (work / mine).parent.mkdir(parents=True)
    (work / mine).write_text("precious")
    (work / "all-00000.parquet").write_text("precious")
    assert refused("embed", made, tmp_path / "out", capsys).startswith(
        f"{work}: is there already, and embedome did not"
    )


def test_what_is_put_into_the_folder_of_work_stays(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from embedome.embedding import single_file

    join, work = single_file.join_parts, tmp_path / "out.work"

    def meanwhile(*arguments: object) -> object:
        (work / "notes.txt").write_text("precious")
        return join(*arguments)

    monkeypatch.setattr(single_file, "join_parts", meanwhile)
    run("embed", made, tmp_path / "out")
    assert [path.name for path in work.iterdir()] == ["notes.txt"]
    assert (work / "notes.txt").read_text() == "precious"
    assert "holds 'notes.txt', which embedome did not make; it stays" in capsys.readouterr().err
    assert len(open_dataset(tmp_path / "out")) == 20


@pytest.mark.slow
@pytest.mark.parametrize("command", [*WRITE_FILES, "annotate"])
def test_a_second_run_replaces_its_own_output_where_that_can_be_told(
    made: dict[str, Path], tmp_path: Path, command: str, capsys: pytest.CaptureFixture
) -> None:
    run(command, made, tmp_path / "out")
    if command == "translate":
        # Of random weights there may be none.
        (tmp_path / "out").write_text(">a\nMKV\n")
    if command in REPEATABLE:
        run(command, made, tmp_path / "out")
    else:
        assert "is there already, and embedome did not make it" in refused(command, made, tmp_path / "out", capsys)


def test_ids_of_the_users_beside_a_matrix_stay(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run("npy", made, tmp_path / "out")
    ids = tmp_path / "out.ids.txt"
    whole = ids.read_text()
    # As a run leaves them that was killed between the two files.
    (tmp_path / "out.npy").unlink()
    run("npy", made, tmp_path / "out")
    assert len(np.load(tmp_path / "out.npy")) == len(whole.splitlines()) == 20
    (tmp_path / "out.npy").unlink()
    for text in ("precious\n", whole + "precious\n", whole[:-1], "".join(whole.splitlines(keepends=True)[:-1])):
        ids.write_text(text)
        assert refused("npy", made, tmp_path / "out", capsys).startswith(f"{ids}: is there already")


@pytest.mark.parametrize("command", [*WRITE_FILES, *WRITE_FOLDERS])
def test_nothing_is_written_into_a_data_set(
    made: dict[str, Path], tmp_path: Path, command: str, capsys: pytest.CaptureFixture
) -> None:
    data = shutil.copytree(made["data"], tmp_path / "data")
    message = refused(command, made, data / "annotation", capsys)
    assert f"lies in the data set {data}; name a place outside of it" in message


@pytest.mark.parametrize(
    ("options", "labels"), [("", ["x,y"]), (" --separator ,", ["x", "y"]), (" --separator ;", ["x,y"])]
)
def test_what_separates_labels_is_chosen(
    made: dict[str, Path], tmp_path: Path, options: str, labels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.tsv").write_text(made["labels"].read_text().replace("\tx\n", "\tx,y\n"))
    monkeypatch.setitem(WRITE_FOLDERS, "annotate", WRITE_FOLDERS["annotate"] + options)
    run("annotate", made | {"labels": tmp_path / "labels.tsv"}, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out", columns=["label"])
    assert sorted(set(rows["label"].to_pylist())) == labels
    about = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert about["labels"]["separator"] == (options.split() or [";"])[-1]


def test_a_data_set_is_not_an_annotation(made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = shutil.copytree(made["data"], tmp_path / "data")
    assert f"{data}: holds " in refused("annotate", made, data, capsys)


def test_an_annotation_with_something_else_in_it_stays(
    made: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run("annotate", made, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("precious")
    assert "out: holds 'notes.txt', which embedome did not make" in refused("annotate", made, tmp_path / "out", capsys)


# What stages write over: models, catalogs, data sets, parts.


def spoil_name(folder: Path) -> None:
    (folder / "notes.txt").write_text("precious")


def spoil_below(folder: Path) -> None:
    (folder / "esm2").mkdir()
    (folder / "esm2" / "model.safetensors").write_text("precious")


def spoil_mark(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"trained": false', '"trained": true'))


def spoil_weights(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_text("precious")


def spoil_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize("spoil", [spoil_name, spoil_below, spoil_mark, spoil_weights, spoil_config])
def test_a_model_directory_is_replaced_only_where_it_is_all_embedomes(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    from embedome.common.errors import UserError

    model = tmp_path / "model"
    for seed in (0, 1):
        make_untrained(model, "x", "ankh-base", SIZES, seed)
    spoil(model)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=r"set model\.untrained to null to use what is there, or name a directory"):
        make_untrained(model, "x", "ankh-base", SIZES, 2)
    assert snapshot(tmp_path) == before


def test_what_snakemake_leaves_of_a_model_is_replaced(tmp_path: Path) -> None:
    """It removes the files first that rule make_model declares."""
    model = tmp_path / "model"
    make_untrained(model, "x", "ankh-base", SIZES, 0)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    make_untrained(model, "x", "ankh-base", SIZES, 0)
    assert (model / "config.json").is_file()


@pytest.fixture
def line(made: dict[str, Path], tmp_path: Path) -> Line:
    shutil.copytree(made["data"].parent, tmp_path / "run")
    return Line(tmp_path / "run", {"val": 1, "test": 1, "train": 2})


@pytest.mark.parametrize("name", ["notes.txt", "annotation/part-00000.parquet", "split=train/mine.parquet"])
def test_a_data_set_with_something_else_in_it_stays(line: Line, name: str) -> None:
    from embedome.common.errors import UserError

    line.merge()
    (line.dataset / name).parent.mkdir(exist_ok=True)
    (line.dataset / name).write_text("precious")
    # Snakemake removes it before the rule runs.
    (line.dataset / "_manifest.json").unlink()
    before = snapshot(line.folder)
    with pytest.raises(UserError, match=f"holds '{name}', which embedome did not make"):
        line.merge()
    assert snapshot(line.folder) == before
    (line.dataset / name).unlink()
    if name.startswith("annotation"):
        (line.dataset / "annotation").rmdir()
    line.merge()


@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_file_of_another_in_a_data_set_stays(line: Line, has_manifest: bool) -> None:
    from embedome.common.errors import UserError

    line.merge()
    mine = line.dataset / "split=train" / "part-99999.parquet"
    pq.write_table(pa.table({"a": [1]}), mine)
    if not has_manifest:
        (line.dataset / "_manifest.json").unlink()
    before = snapshot(line.folder)
    with pytest.raises(UserError, match="dataset: is there already, and embedome did not make it"):
        line.merge()
    assert snapshot(line.folder) == before


def test_a_catalog_with_something_else_in_it_stays(line: Line) -> None:
    from embedome.common.errors import UserError
    from helpers.filtered import run_filter

    run_filter(line.folder, line.folder / "in.fasta")
    (line.folder / "catalog" / "notes.txt").write_text("precious")
    before = snapshot(line.folder)
    with pytest.raises(UserError, match=r"catalog: holds 'notes\.txt', which embedome did not make"):
        run_filter(line.folder, line.folder / "in.fasta")
    assert snapshot(line.folder) == before


def test_only_parts_of_embedomes_are_removed(line: Line, made: dict[str, Path]) -> None:
    folder = line.manifest("train").parent
    mine, own = folder / "00000-notes.parquet", folder / "00000-00099.parquet"
    mine.write_text("precious")
    shutil.copy(folder / "00000-00000.parquet", own)
    line.manifest("train").unlink()
    line.embed(made["model"])
    assert mine.read_text() == "precious"
    assert not own.exists()
