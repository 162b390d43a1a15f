"""What is there and is not embedome's stays, whatever it is: files, folders, links, pipes, sockets, devices."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from embedome.common.atomic_files import atomic_directory, atomic_path, temporaries_beside
from embedome.common.errors import UserError
from embedome.common.json_files import write_json
from embedome.common.outputs import check_new_folder, check_output, check_own_folder
from helpers.obstacles import OBSTACLES, snapshot

NAMES = re.compile(r"mark|part-\d+|below/(part)?")


@pytest.mark.parametrize("kind", OBSTACLES)
def test_a_file_is_not_written_over_what_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.json"
    OBSTACLES[kind](path)
    before = snapshot(tmp_path)
    for write in (lambda: write_json(path, {}), lambda: check_output(path, is_own=lambda _: True)):
        with pytest.raises(UserError, match=r"out\.json is a .*; expected the name of a file to write"):
            write()
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", OBSTACLES)
def test_what_comes_into_the_way_meanwhile_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    before = {}

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            OBSTACLES[kind](path)
            before.update({name: about for name, about in snapshot(tmp_path).items() if name != temporary.name})

    with pytest.raises(UserError, match=r"out is a .*; expected the name of a file to write"):
        write()
    assert snapshot(tmp_path) == before


def replace_folder(path: Path) -> None:
    with atomic_directory(path, lambda folder: check_own_folder(folder, NAMES, has_mark)) as temporary:
        (temporary / "mark").touch()


def has_mark(folder: Path) -> bool:
    return (folder / "mark").is_file()


@pytest.mark.parametrize("check", [replace_folder, check_new_folder])
@pytest.mark.parametrize("kind", [*OBSTACLES, "file"])
def test_a_folder_is_not_put_in_the_place_of_what_is_none_of_embedomes(
    tmp_path: Path, kind: str, check: Callable[[Path], None]
) -> None:
    path = tmp_path / "out"
    (OBSTACLES | {"file": lambda path: path.write_text("precious")})[kind](path)
    before = snapshot(tmp_path)
    with pytest.raises(UserError) as caught:
        check(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["notes.txt", ".hidden", "part-1.bak", "below/notes", "empty/", "part-2/", "below/below/part", "part-7.tmp"]
)
@pytest.mark.parametrize("marked", [True, False])
def test_a_folder_with_something_else_in_it_stays(tmp_path: Path, name: str, marked: bool) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for own in ["part-1", "below/part", *(["mark"] if marked else [])]:
        (folder / own).parent.mkdir(exist_ok=True)
        (folder / own).write_text("own")
    if marked:
        replace_folder(folder)
        assert [path.name for path in folder.iterdir()] == ["mark"]
    if name.endswith("/"):
        (folder / name).mkdir(parents=True)
    else:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=re.escape(f"{folder}: holds {name!r}, which embedome did not make")):
        replace_folder(folder)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", OBSTACLES)
def test_what_is_no_file_within_a_folder_is_something_else(tmp_path: Path, kind: str) -> None:
    replace_folder(tmp_path / "out")
    OBSTACLES[kind](tmp_path / "out" / "part-1")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="holds 'part-1"):
        replace_folder(tmp_path / "out")
    assert snapshot(tmp_path) == before


def test_a_folder_without_a_mark_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-1").write_text("precious")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="out: is there already, and embedome did not make it"):
        replace_folder(tmp_path / "out")
    assert snapshot(tmp_path) == before


def test_what_is_put_into_a_folder_while_the_new_one_is_made_stays(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    replace_folder(folder)

    def replace_slowly() -> None:
        with atomic_directory(folder, lambda path: check_own_folder(path, NAMES, has_mark)) as temporary:
            (temporary / "mark").touch()
            (folder / "notes.txt").write_text("precious")

    with pytest.raises(UserError, match=r"holds 'notes\.txt'"):
        replace_slowly()
    assert (folder / "notes.txt").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_files_are_replaced_where_they_are_embedomes_or_empty(tmp_path: Path) -> None:
    out = tmp_path / "x"
    check_output(out)
    out.touch()
    check_output(out)
    out.write_text("something")
    check_output(out, is_own=lambda path: path.read_text() == "something")
    with pytest.raises(UserError, match="x: is there already, and embedome did not make it; name another file"):
        check_output(out)
    with pytest.raises(UserError, match="x: is a file that is to be read"):
        check_output(out, [tmp_path / "x"], lambda _: True)
    (tmp_path / "hard").hardlink_to(out)
    with pytest.raises(UserError, match="hard: is a file that is to be read"):
        check_output(tmp_path / "hard", [out], lambda _: True)


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file" / "x", tmp_path / "file" / "below" / "x"):
        with pytest.raises(UserError, match=re.escape(f"{out}: {tmp_path}/file is no folder")):
            write_json(out, {})
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("place", ["x", "below/x", "split=val/x", "../data/x"])
def test_nothing_is_written_into_a_data_set(tmp_path: Path, place: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_json(data / "_manifest.json", {"provenance": {}})
    (tmp_path / "link").symlink_to(data)
    for folder in (data, tmp_path / "link"):
        for check in (check_output, check_new_folder):
            with pytest.raises(UserError, match=f"lies in the data set {data}; name a place outside of it"):
                check(folder / place)
    check_output(tmp_path / "x")


def test_only_names_that_embedome_gives_are_swept_away(tmp_path: Path) -> None:
    own = tmp_path / ".x.0123456789ab.tmp"
    others = [
        tmp_path / name for name in (".x.important-no.tmp", ".x.0123456789AB.tmp", ".x.tmp", ".x.0123456789abc.tmp")
    ]
    for path in (own, *others):
        path.write_text("precious")
    assert temporaries_beside(tmp_path / "x") == [own]
    write_json(tmp_path / "x", {})
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "x", *others])
