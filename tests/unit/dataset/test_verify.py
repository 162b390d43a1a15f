"""`embedome verify`: a sound data set passes; each way in which one can go bad is named."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from embedome.cli.main import main
from embedome.common.errors import UserError
from embedome.dataset.verify import verify_dataset
from embedome.embedding.settings import EmbedSettings
from helpers import small_run as line


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    records = line.random_records(5, [*range(30, 70)])
    made = line.prepare(folder / "run", [*records, ("copy", records[3][1])])
    made.embed(line.rough_model(folder / "model"), EmbedSettings(long_sequences="skip", per_residue=True))
    made.merge()
    return made.dataset


@pytest.fixture
def dataset(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "dataset"))


def first(dataset: Path, pattern: str) -> Path:
    return sorted(dataset.glob(pattern))[0]


@pytest.mark.parametrize("threads", [1, 4])
def test_a_sound_data_set_passes(sound: Path, threads: int) -> None:
    files = [path for path in sound.rglob("*") if path.is_file()]
    assert verify_dataset(sound, threads) == {
        "format": 3,
        "rows": sum(pq.read_metadata(path).num_rows for path in sound.glob("split=*/*.parquet")),
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
    }


def test_the_command_prints_what_there_is(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", str(sound)])
    found = verify_dataset(sound)
    assert capsys.readouterr().out.startswith(f"{sound}: sound, {found['rows']} rows in {found['files']} files, ")
    main(["verify", str(sound), "--json"])
    assert json.loads(capsys.readouterr().out) == found


def change(path: Path) -> None:
    line.flip(path, path.stat().st_size // 2)


def swap(dataset: Path) -> None:
    one, other = sorted(dataset.glob("split=train/*.parquet"))[:2]
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def rewrite_manifest(dataset: Path) -> None:
    """A manifest that somebody edited."""
    path = dataset / "_manifest.json"
    manifest = json.loads(path.read_text())
    manifest["rows"] += 1
    path.write_text(json.dumps(manifest))


def lose_skipped(dataset: Path) -> None:
    path = dataset / "_skipped.parquet"
    table = pq.read_table(path)
    assert len(table)
    pq.write_table(table.slice(1), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda dataset: change(first(dataset, "split=train/part-*")), r"split=train/part-\S+: changed"),
        (lambda dataset: change(first(dataset, "split=*/dup*")), r"split=\w+/duplicates-\S+: changed"),
        (lambda dataset: change(first(dataset, "_residues/*/*")), r"_residues/split=\S+: changed"),
        (lambda dataset: first(dataset, "split=val/part-*").unlink(), r"split=val/part-\S+: missing"),
        (lambda dataset: first(dataset, "split=val/*").write_bytes(b"PAR1"), r"4 bytes; expected"),
        (lambda dataset: (dataset / "split=val" / "x.parquet").write_bytes(b"x"), r"split=val/x.parquet: not in"),
        (swap, r"split=train/part-"),
        (rewrite_manifest, "_manifest.json: changed since it was written"),
        (lose_skipped, r"_skipped.parquet: [\d,]+ bytes; expected"),
        (lambda dataset: (dataset / "_manifest.json").unlink(), "no data set there"),
    ],
)
def test_damage_is_named(dataset: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(dataset)
    with pytest.raises(UserError, match=message) as caught:
        verify_dataset(dataset)
    assert str(dataset) in str(caught.value)


def test_a_file_has_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        verify_dataset(tmp_path / "x.parquet")


def test_digests_are_those_of_sha256sum(sound: Path) -> None:
    manifest = json.loads((sound / "_manifest.json").read_text())
    for split in [*manifest["splits"].values(), {"files": manifest["other_files"]}]:
        for entry in split["files"]:
            assert hashlib.sha256((sound / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]


def test_the_manifest_s_digest_is_over_its_canonical_json(sound: Path) -> None:
    manifest = json.loads((sound / "_manifest.json").read_text())
    said = manifest.pop("sha256")
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == said
