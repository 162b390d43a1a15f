"""Faults in what is merged: each is found, and its message says how to correct it."""

import hashlib
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedome.common.errors import UserError
from embedome.dataset.format import embedding_metadata
from embedome.dataset.part_file import write_part
from embedome.embedding.settings import EmbedSettings
from embedome.parquet.vectors import vector_array, vector_matrix
from helpers import small_run as line
from helpers.merged_records import PLAN, RECORDS, SHARDS
from helpers.small_run import Line


def parts(own: Line) -> list[Path]:
    return [path for split in SHARDS for path in sorted((own.folder / "embeddings" / split).glob("*.parquet"))]


def manifest_of(part: Path) -> Path:
    return part.with_name(f"{part.name.split('-')[0]}.json")


def fault_of(own: Line, **arguments: object) -> str:
    """The message of the merge that must fail, and must leave the data set as it is."""
    before = line.snapshot(own.dataset)
    with pytest.raises(UserError) as excinfo:
        own.merge(**arguments)
    assert "\n" not in str(excinfo.value)
    assert line.snapshot(own.dataset) == before
    assert not list(own.folder.glob(".*"))
    return str(excinfo.value)


def follow_advice(own: Line, model: Path, message: str, settings: EmbedSettings | None = None) -> None:
    """Do what messages say, until the merge is through."""
    for _ in range(4):
        command = re.search(r"(rm -f '.*) and run again$", message)
        assert command, message
        subprocess.run(command[1], shell=True, check=True)
        own.embed(model, settings)
        try:
            own.merge()
        except UserError as error:
            message = str(error)
        else:
            return
    pytest.fail(f"not repaired: {message}")


# Parts


def forge(part: Path, change: Callable[[pa.Table], pa.Table], *, counts: bool = True) -> None:
    """Rewrite a part, and its manifest so that digest and counts are right again."""
    file = pq.ParquetFile(part)
    about = json.loads(file.metadata.metadata[b"embedome"])
    schema = file.schema_arrow.remove_metadata()
    changed = change(file.read().replace_schema_metadata(None)).cast(schema)
    part.unlink()
    write_part(part, changed, embedding_metadata(about["provenance"], fingerprint=about["fingerprint"]))
    manifest = json.loads(manifest_of(part).read_text())
    entry = next(entry for entry in manifest["parts"] if entry["file"] == part.name)
    entry.update(sha256=hashlib.sha256(part.read_bytes()).hexdigest(), bytes=part.stat().st_size)
    if counts:
        ids = changed["id"].to_pylist()
        lost = entry["rows"] - len(changed)
        states = dict(Counter(changed["state"].to_pylist()))
        entry.update(rows=len(ids), sequences=len(ids), first_id=ids[0], last_id=ids[-1], states=states)
        manifest["sequences"] -= lost
    manifest_of(part).write_text(json.dumps(manifest))


def missing(part: Path) -> None:
    part.unlink()


def truncated(part: Path) -> None:
    data = part.read_bytes()
    part.unlink()
    part.write_bytes(data[:-30])


def empty(part: Path) -> None:
    part.unlink()
    part.write_bytes(b"")


def flipped_in_page(part: Path) -> None:
    line.flip(part, line.page_byte(part, 0, 7))


def flipped_in_footer(part: Path) -> None:
    line.flip(part, -40)


def swapped(part: Path) -> None:
    """Exchange it with a neighbour."""
    folder = sorted(part.parent.glob("*.parquet"))
    other = folder[folder.index(part) - 1]
    part.rename(part.with_suffix(".x"))
    other.rename(part)
    part.with_suffix(".x").rename(other)


def set_vector(value: float) -> Callable[[Path], None]:
    def change(rows: pa.Table) -> pa.Table:
        vectors = vector_matrix(rows["embedding"]).copy()
        vectors[0, 5] = value
        return rows.set_column(7, "embedding", vector_array(vectors))

    return lambda part: forge(part, change)


def without_row(row: int) -> Callable[[Path], None]:
    def change(rows: pa.Table) -> pa.Table:
        return rows.filter(np.arange(len(rows)) != row % len(rows))

    return lambda part: forge(part, change)


def repeated_row(part: Path) -> None:
    forge(part, lambda rows: pa.concat_tables([rows.slice(0, 1), rows]))


def out_of_order(part: Path) -> None:
    forge(part, lambda rows: rows.take(list(reversed(range(len(rows))))))


def with_value(column: str, value: str) -> Callable[[Path], None]:
    def change(rows: pa.Table) -> pa.Table:
        values = rows[column].to_pylist()
        values[1] = value
        return rows.set_column(rows.column_names.index(column), column, pa.array(values))

    return lambda part: forge(part, change)


@pytest.mark.parametrize("position", [0, 7, -1])
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (missing, "missing"),
        (truncated, "changed since it was written"),
        (empty, "changed since it was written"),
        (flipped_in_page, "changed since it was written"),
        (flipped_in_footer, "changed since it was written"),
        (swapped, "changed since it was written"),
        (set_vector(float("nan")), "a vector is not finite"),
        (set_vector(float("inf")), "a vector is not finite"),
        (out_of_order, "ids out of order"),
        (with_value("digest", "SQ.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), "where the catalog has"),
    ],
)
@pytest.mark.slow
def test_a_damaged_part_is_named_and_can_be_rebuilt(
    own: Line, merged: Line, model: Path, position: int, damage: Callable[[Path], None], what: str
) -> None:
    part = parts(own)[position]
    damage(part)
    message = fault_of(own)
    assert what in message
    # Of two that were exchanged, one is named first.
    named = sorted(part.parent.glob("*.parquet")) if damage is swapped else [part]
    assert any(message.startswith(f"{path}: ") for path in named)
    assert f"'{manifest_of(part)}'" in message
    follow_advice(own, model, message)
    assert line.snapshot(own.dataset) == line.snapshot(merged.dataset)


@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_damaged_file_of_residues_is_named_and_can_be_rebuilt(
    rich: Line, model: Path, tmp_path: Path, damage: str
) -> None:
    own = rich.copy(tmp_path / "line")
    path = sorted((own.folder / "embeddings" / "train").glob("*.residues.parquet"))[1]
    if damage == "missing":
        path.unlink()
    else:
        line.flip(path, path.stat().st_size // 2)
    message = fault_of(own)
    assert path.name in message
    follow_advice(own, model, message, EmbedSettings(pooling=("mean", "max"), per_residue=True))
    assert line.snapshot(own.dataset) == line.snapshot(rich.dataset)


@pytest.mark.parametrize("position", [0, 7, -1])
@pytest.mark.parametrize("damage", [without_row(0), without_row(1), without_row(-1), repeated_row])
@pytest.mark.slow
def test_a_lost_row_is_found_though_all_sums_are_right(
    own: Line, merged: Line, model: Path, position: int, damage: Callable[[Path], None]
) -> None:
    part = parts(own)[position]
    damage(part)
    message = fault_of(own)
    assert str(manifest_of(part)) in message
    follow_advice(own, model, message)
    assert line.snapshot(own.dataset) == line.snapshot(merged.dataset)


def test_an_alien_id_is_found(own: Line, merged: Line, model: Path) -> None:
    part = parts(own)[0]
    ids = [name for (name,) in line.rows(part, "id")]
    with_value("id", f"{ids[0]}x")(part)
    message = fault_of(own)
    assert message.startswith(f"{part}: ")
    assert f"{ids[0]}x" in message
    assert ids[1] in message
    follow_advice(own, model, message)
    assert line.snapshot(own.dataset) == line.snapshot(merged.dataset)


def test_a_record_that_is_in_no_shard_is_found(own: Line) -> None:
    more = line.prepare(own.folder / "more", [*RECORDS, ("Z9", "MKVL")], {"val": 1, "test": 1, "train": 1}, PLAN)
    assert dict(line.rows(more.folder / "splits.parquet", "id, split"))["Z9"] == "train"
    for name in ("catalog", "splits.parquet"):
        (own.folder / name).rename(own.folder / f"old-{name}")
        (more.folder / name).rename(own.folder / name)
    assert "not the catalog of" in fault_of(own)
    # As of shards of an earlier version, which do not name their catalog.
    shards = own.folder / "shards.json"
    shards.write_text(shards.read_text().replace("catalog_sha256", "unknown"))
    assert "split train: 'Z9' and what follows is in no shard" in fault_of(own)


# Shards and their manifests


def embed_again(own: Line, split: str, model: Path, settings: EmbedSettings | None = None) -> None:
    """Embed one shard of a split in another way."""
    own.manifest(split).unlink()
    own.embed(model, settings)


@pytest.mark.parametrize("split", ["val", "test", "train"])
@pytest.mark.parametrize("settings", [None, EmbedSettings("bfloat16")])
def test_shards_embedded_in_different_ways_are_not_mixed(
    own: Line, merged: Line, model: Path, other_model: Path, split: str, settings: EmbedSettings | None
) -> None:
    embed_again(own, split, model if settings else other_model, settings)
    message = fault_of(own)
    assert "embedded in another way" in message
    assert str(own.manifest(split)) in message
    follow_advice(own, model, message)
    assert line.snapshot(own.dataset) == line.snapshot(merged.dataset)


@pytest.mark.parametrize("position", [0, -1])
def test_a_part_of_other_weights_is_found(
    own: Line, merged: Line, model: Path, other_model: Path, tmp_path: Path, position: int
) -> None:
    other = line.prepare(tmp_path / "other", RECORDS, SHARDS)
    other.embed(other_model)
    victim, source = parts(own)[position], parts(other)[position]
    victim.unlink()
    shutil.copy(source, victim)
    assert "changed since it was written" in fault_of(own)
    # Its digest put right, it is still of another run.
    manifest = json.loads(manifest_of(victim).read_text())
    entry = next(entry for entry in manifest["parts"] if entry["file"] == victim.name)
    entry["sha256"] = hashlib.sha256(victim.read_bytes()).hexdigest()
    manifest_of(victim).write_text(json.dumps(manifest))
    message = fault_of(own)
    assert "of another run" in message
    assert message.startswith(f"{victim}: ")
    follow_advice(own, model, message)
    assert line.snapshot(own.dataset) == line.snapshot(merged.dataset)


def test_a_stale_manifest_is_found(own: Line, merged: Line, model: Path) -> None:
    fasta, manifest = own.fasta("test"), own.manifest("test")
    whole = fasta.read_bytes()
    line.write_shard(fasta, list(line.read_fasta(fasta).items())[1:])
    manifest.unlink()
    with mock.patch("embedome.embedding.embed.shard_total", return_value=None):
        own.embed(model)
    fasta.write_bytes(whole)
    message = fault_of(own)
    assert message.startswith(f"{manifest}: made from other sequences")
    follow_advice(own, model, message)
    assert line.snapshot(own.dataset) == line.snapshot(merged.dataset)


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_missing_manifest_is_named(own: Line, merged: Line, model: Path, split: str) -> None:
    others = [path for path in own.manifests if path != own.manifest(split)]
    assert f"split {split}: shard 00000 has no manifest" in fault_of(own, manifests=others)
    own.manifest(split).unlink()
    assert f"split {split}: shard 00000 has no manifest" in fault_of(own)
    own.embed(model)
    own.merge()
    assert line.snapshot(own.dataset) == line.snapshot(merged.dataset)


def test_an_alien_manifest_is_named(own: Line) -> None:
    alien = own.manifest("train", 7)
    shutil.copy(own.manifest("train", 0), alien)
    message = fault_of(own, manifests=[*own.manifests, alien])
    assert message.startswith(f"{alien}: not one of the shards")


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"format": 3}'])
def test_what_is_no_manifest_is_named(own: Line, text: str) -> None:
    own.manifest("train", 1).write_text(text)
    message = fault_of(own)
    assert message.startswith(f"{own.manifest('train', 1)}: not ")
    assert "run again" in message


def test_the_manifest_of_another_shard_is_found(own: Line, merged: Line, model: Path) -> None:
    shutil.copy(own.manifest("train", 0), own.manifest("train", 1))
    message = fault_of(own)
    assert str(own.manifest("train", 1)) in message
    follow_advice(own, model, message)
    assert line.snapshot(own.dataset) == line.snapshot(merged.dataset)
