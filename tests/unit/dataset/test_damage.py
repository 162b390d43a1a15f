"""Whatever changes in the folder of a data set, `verify` names it; no reader takes a format that it does not know."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from embedome.analysis.analyse import Samples, analyse_dataset
from embedome.annotation.annotate import annotate_dataset
from embedome.annotation.labels import LabelSource
from embedome.annotation.reference_set import AnnotateSettings, ReferenceSet
from embedome.cli.main import main
from embedome.common.errors import UserError
from embedome.dataset import open_dataset
from embedome.dataset.manifest import read_manifest
from embedome.dataset.reuse import find_reusable
from embedome.dataset.verify import verify_dataset
from embedome.embedding.settings import EmbedSettings
from helpers import small_run as line

FLIPS = 20  # of each file
SIDE_FILES = ("_manifest.json", "_metadata", "_common_metadata", "_skipped.parquet")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with duplicates, skipped sequences, several files a split and per-residue embeddings."""
    folder = tmp_path_factory.mktemp("damage")
    records = line.random_records(9, [*range(30, 60), 70])
    made = line.prepare(folder / "run", [*records, ("copy", records[3][1]), ("other", records[4][1])])
    settings = EmbedSettings(long_sequences="skip", max_residues=60, per_residue=True)
    made.embed(line.rough_model(folder / "model"), settings)
    made.merge()
    assert pq.read_metadata(made.dataset / "_skipped.parquet").num_rows == 1
    return made.dataset


@pytest.fixture
def dataset(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "dataset"))


def all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def positions(size: int, chance: random.Random) -> Iterator[int]:
    """Bytes of a file: its ends, where Parquet has its magic and the length of its footer, and some of each tenth."""
    yield from {0, min(3, size - 1), max(0, size - 8), size - 1}
    for _ in range(FLIPS - 4):
        tenth = chance.randrange(10)
        yield min(size - 1, (size * tenth + chance.randrange(size)) // 10)


def is_named(folder: Path, path: Path) -> bool:
    """Whether `verify` fails, and names a file."""
    try:
        verify_dataset(folder)
    except UserError as error:
        return str(path.relative_to(folder)) in str(error)
    return False


@pytest.mark.slow
def test_any_bit_that_flips_is_found_and_its_file_named(dataset: Path) -> None:
    chance = random.Random(1)
    passed = []
    assert {path.name for path in all_files(dataset)} > set(SIDE_FILES)
    assert len({path.parent.parent.name for path in all_files(dataset)}) > 2
    verify_dataset(dataset)
    for path in all_files(dataset):
        whole = path.read_bytes()
        for position in positions(len(whole), chance):
            line.flip(path, position, chance.randrange(8))
            if not is_named(dataset, path):
                passed.append((path.name, position))
            path.write_bytes(whole)
    assert passed == []


def reads_as(folder: Path) -> dict[str, Any] | None:
    """What a manifest says; None where it is refused by its name."""
    try:
        return read_manifest(folder)
    except UserError as error:
        return None if "_manifest.json" in str(error) else {}


@pytest.mark.slow
def test_no_bit_of_the_manifest_can_flip_unseen(sound: Path, tmp_path: Path) -> None:
    """Nor at reading: but for what means the same, as 1E-05 for 1e-05, which `verify` finds."""
    whole = (sound / "_manifest.json").read_bytes()
    path = tmp_path / "_manifest.json"
    meaning = json.loads(whole)
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        assert reads_as(tmp_path) in (meaning, None)


def test_a_number_of_the_same_meaning_is_a_change(dataset: Path) -> None:
    path = dataset / "_manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"format": 3,', b'"format":  3,'))
    read_manifest(dataset)
    with pytest.raises(UserError, match=r"_manifest.json: changed \(not as it was written\)"):
        verify_dataset(dataset)


@pytest.mark.slow
def test_files_that_are_cut_emptied_lengthened_or_gone_are_named(dataset: Path) -> None:
    for path in all_files(dataset):
        whole = path.read_bytes()
        for other in (b"", whole[:-1], whole[: len(whole) // 2], whole + b"\0", None):
            path.unlink()
            if other is not None:
                path.write_bytes(other)
            if path.name == "_manifest.json" and other is None:
                with pytest.raises(UserError, match=r"no _manifest\.json"):
                    verify_dataset(dataset)
            else:
                assert is_named(dataset, path), (path, len(other or b""))
            path.write_bytes(whole)
    verify_dataset(dataset)


def test_files_that_are_swapped_are_named(dataset: Path) -> None:
    files = [path for path in all_files(dataset) if path.name != "_manifest.json"]
    for one, other in zip(files, files[1:] + files[:1], strict=True):
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        assert is_named(dataset, one)
        assert is_named(dataset, other)
        one.write_bytes(first)
        other.write_bytes(second)


def test_files_that_are_added_are_named(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    part = sorted((dataset / "split=train").glob("part-*"))[0]
    for name in ("split=train/part-99999-00000.parquet", "extra.parquet", "split=new/x", "below/it/y.parquet"):
        path = dataset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(part, path)
        assert is_named(dataset, path)
        path.unlink()
    others = ("README.md", ".DS_Store", "split=train/._x", "notes/a.txt", "_residues/split=train/b.parquet")
    for name in others:
        (dataset / name).parent.mkdir(exist_ok=True)
        (dataset / name).write_text("x")
    (dataset / "link").symlink_to("nowhere")
    verify_dataset(dataset)
    assert [name for name in (*others, "link") if f"{name} is not of the data set" not in caplog.text] == []


# Manifests that were made to hold together.


def sign(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with its digest, as a program would that means harm, or an older version that had a fault."""
    manifest = {key: value for key, value in manifest.items() if key != "sha256"}
    if manifest["format"] != 2:
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "_manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def older(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest as format 2 had it."""
    return {key: value for key, value in manifest.items() if key not in ("other_files", "sha256")} | {"format": 2}


def swap_splits(manifest: dict[str, Any]) -> None:
    splits = manifest["splits"]
    splits["val"], splits["test"] = splits["test"], splits["val"]


def train(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["splits"]["train"]


def move_rows(manifest: dict[str, Any]) -> None:
    one, other = train(manifest)["files"][:2]
    one["rows"], one["row_groups"] = one["rows"] + 1, [one["rows"] + 1]
    other["rows"], other["row_groups"] = other["rows"] - 1, [other["rows"] - 1]


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "rows": (lambda each: each.update(rows=each["rows"] + 1), "rows of all splits"),
    "rows of a split": (lambda each: train(each).update(rows=1), "rows of split train"),
    "rows of files": (move_rows, "rows"),
    "row groups": (lambda each: train(each)["files"][0].update(row_groups=[1, 2]), "row_groups"),
    "no row groups": (lambda each: train(each)["files"][0].update(row_groups=None), "row_groups"),
    "first id": (lambda each: train(each)["files"][0].update(first_id="A"), "first_id"),
    "last id": (lambda each: train(each)["files"][0].update(last_id="~"), "last_id"),
    "first id of residues": (lambda each: train(each)["residues"][0].update(first_id="A"), "first_id"),
    "rows of residues": (lambda each: train(each)["residues"][0].update(rows=99), "rows"),
    "bytes": (lambda each: train(each)["files"][0].update(bytes=7), "bytes; expected 7"),
    "sha256": (lambda each: train(each)["files"][0].update(sha256="0" * 64), "another sha256"),
    "states": (lambda each: train(each)["states"].update(truncated=1), "rows of split train by state"),
    "skipped": (lambda each: train(each)["skipped"].update(other=1), "skipped sequences"),
    "reused": (lambda each: train(each)["reused"].update(embedded=10**6), "are reused than there are"),
    "swapped splits": (swap_splits, "folder"),
    "a file less": (lambda each: train(each)["files"].pop(), "not in _manifest.json"),
    "a file twice": (lambda each: train(each)["files"].append(train(each)["files"][0]), "lists .* 2 times"),
    "dimension": (lambda each: each.update(dimension=3), "columns"),
    "provenance": (lambda each: each["provenance"].update(layer=5), "provenance"),
    "outside": (lambda each: train(each)["files"][0].update(file="../x.parquet"), "_manifest.json: changed"),
    "no splits": (lambda each: each.pop("splits"), "_manifest.json: changed"),
}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("what", WRONG)
def test_numbers_of_the_manifest_are_compared_with_the_files(dataset: Path, what: str, version: int) -> None:
    change, message = WRONG[what]
    manifest = json.loads((dataset / "_manifest.json").read_text())
    manifest = older(manifest) if version == 2 else manifest
    sign(dataset, manifest)
    verify_dataset(dataset)
    change(manifest)
    sign(dataset, manifest)
    with pytest.raises(UserError, match=message):
        verify_dataset(dataset)


def test_row_groups_that_do_not_add_up_are_no_rows_left_out(dataset: Path) -> None:
    manifest = older(json.loads((dataset / "_manifest.json").read_text()))
    entry = next(entry for entry in train(manifest)["files"] if entry["rows"] > 1)
    entry["row_groups"] = [entry["rows"] - 1]
    sign(dataset, manifest)
    with pytest.raises(UserError, match=r"part-\S+: \d+ rows in its row groups, but \d+ in the manifest"):
        list(open_dataset(dataset).iter_batches())


# Formats.


def test_a_data_set_of_the_first_of_format_2_is_read_and_verified(dataset: Path) -> None:
    """It had neither the rows of row groups nor counts of reused rows."""
    manifest = older(json.loads((dataset / "_manifest.json").read_text()))
    for split in manifest["splits"].values():
        del split["reused"]
        split["files"] = [{key: entry[key] for key in entry if key != "row_groups"} for entry in split["files"]]
    sign(dataset, manifest)
    assert verify_dataset(dataset)["rows"] == sum(len(ids) for ids, _ in open_dataset(dataset).iter_batches())


def test_a_data_set_of_the_old_format_is_read_and_verified_as_far_as_can_be(
    sound: Path, dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sign(dataset, older(json.loads((dataset / "_manifest.json").read_text())))
    now, old = open_dataset(sound), open_dataset(dataset)
    for (ids, vectors), (old_ids, old_vectors) in zip(now.matrix(), old.matrix(), strict=True):
        assert ids == old_ids
        assert (vectors == old_vectors).all()
    assert verify_dataset(dataset)["format"] == 2
    assert "format 2 has no digests of _common_metadata, _metadata, _skipped.parquet and the manifest" in caplog.text
    pq.write_table(pq.read_table(dataset / "_skipped.parquet").slice(1), dataset / "_skipped.parquet")
    with pytest.raises(UserError, match=r"_skipped.parquet: skipped sequences .*, but .* in _manifest.json"):
        verify_dataset(dataset)


@pytest.mark.parametrize("version", [99, 1, "3", None, 3.0, True])
def test_an_unknown_format_is_refused_by_every_reader(dataset: Path, tmp_path: Path, version: object) -> None:
    manifest = json.loads((dataset / "_manifest.json").read_text())
    sign(dataset, manifest | {"format": version})
    catalog, splits = tmp_path / "catalog", tmp_path / "splits.parquet"
    labels = tmp_path / "labels.tsv"
    labels.write_text("id\tlabel\n")
    readers: list[Callable[[], object]] = [
        lambda: open_dataset(dataset),
        lambda: verify_dataset(dataset),
        lambda: find_reusable(catalog, dataset, reused=tmp_path / "reused", summary=tmp_path / "reuse.json"),
        lambda: annotate_dataset(dataset, LabelSource(labels), tmp_path / "out", AnnotateSettings()),
        lambda: analyse_dataset(dataset, catalog, splits, tmp_path / "analysis", samples=Samples()),
    ]
    for read in readers:
        with pytest.raises(UserError, match=r"_manifest.json: format .*; this version reads 2 and 3"):
            read()
    for command in (["get", "x"], ["describe"], ["verify"], ["export", "-o", str(tmp_path / "x.npy")]):
        with pytest.raises(SystemExit) as caught:
            main([command[0], str(dataset), *command[1:]])
        assert caught.value.code == 2


def test_a_file_of_an_unknown_format_is_refused_by_every_reader(dataset: Path) -> None:
    entry = next(entry for entry in open_dataset(dataset).files("train") if entry["rows"])
    part, name = dataset / entry["file"], entry["first_id"]
    table = pq.ParquetFile(part).read()
    about = json.loads(table.schema.metadata[b"embedome"])
    pq.write_table(table.replace_schema_metadata({"embedome": json.dumps(about | {"format": 99})}), part)
    data = open_dataset(dataset)
    for read in (lambda: open_dataset(part), lambda: list(data.matrix("train")), lambda: data.get([name])):
        with pytest.raises(UserError, match=r"part-\S+: format 99; expected 2"):
            read()


def test_a_look_up_set_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lookup.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="a reference set of another format"):
        ReferenceSet(tmp_path)


def test_a_schema_whose_names_are_no_text_is_named(dataset: Path) -> None:
    sign(dataset, older(json.loads((dataset / "_manifest.json").read_text())))
    path = dataset / "_common_metadata"
    path.write_bytes(path.read_bytes().replace(b"embedding", b"embedd\xe9ng", 1))
    with pytest.raises(UserError, match="_common_metadata: not a readable Parquet file"):
        verify_dataset(dataset)
