"""The merge stage: no row lost or invented, nothing visible before it is whole."""

import base64
import hashlib
import json
import os
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster
from embedome.common import atomic_files
from embedome.common.dask_workers import DaskWorkers
from embedome.common.errors import UserError
from embedome.dataset import open_dataset
from embedome.embedding.settings import EmbedSettings
from embedome.merging import merge
from embedome.splits.split_methods import SplitSettings
from helpers import small_run as line
from helpers.merged_records import RECORDS, SHARDS
from helpers.paths import SCRIPTS
from helpers.small_run import HuggingFace, Line, Processes, assert_within_one_ulp

SKIP = EmbedSettings("float32", "skip")


def table(line_: Line, columns: str) -> list[tuple]:
    return line.rows(line_.dataset / "split=*" / "*.parquet", columns)


def canonical() -> dict[str, str]:
    """The smallest id with the same sequence, of each id."""
    ids = defaultdict(list)
    for name, sequence in RECORDS:
        ids[sequence].append(name)
    return {name: min(ids[sequence]) for name, sequence in RECORDS}


# What the data set holds


def test_every_record_has_its_row(merged: Line, reference: HuggingFace) -> None:
    found = table(merged, "id, split, length, n_residues_used, state, taxid, n_members, embedding")
    sequences, first = dict(RECORDS), canonical()
    assert Counter(row[0] for row in found) == Counter(list(sequences))
    splits = dict(line.rows(merged.folder / "splits.parquet", "id, split"))
    for name, split, length, used, state, taxid, n_members, vector in found:
        sequence = sequences[name]
        assert split == splits[name] == splits[first[name]]
        assert (length, used) == (len(sequence), min(len(sequence), 62))
        assert (taxid, n_members) == (9606, 2)
        expected = "duplicate" if name != first[name] else "truncated" if length > 62 else "embedded"
        assert state == expected
        assert_within_one_ulp(np.array(vector, np.float16), reference.vector(sequence))


def test_duplicates_repeat_their_canonical_row(merged: Line) -> None:
    first = canonical()
    digests = dict(table(merged, "id, digest"))
    vectors = dict(table(merged, "id, embedding"))
    for name in first:
        assert vectors[name] == vectors[first[name]]
        assert digests[name] == digests[first[name]]
    for path in merged.dataset.rglob("duplicates-*.parquet"):
        assert {state for (state,) in line.rows(path, "state")} == {"duplicate"}
    for path in merged.dataset.rglob("part-*.parquet"):
        assert "duplicate" not in {state for (state,) in line.rows(path, "state")}


def test_files_are_sorted_and_their_ranges_disjoint(merged: Line) -> None:
    for split in SHARDS:
        for kind in ("part", "duplicates"):
            paths = sorted((merged.dataset / f"split={split}").glob(f"{kind}-*.parquet"))
            assert paths
            ids = [name for path in paths for (name,) in line.rows(path, "id")]
            assert ids == sorted(set(ids))


def test_manifest_lists_what_is_there(merged: Line, model: Path) -> None:
    manifest = json.loads((merged.dataset / "_manifest.json").read_text())
    assert manifest["rows"] == len(RECORDS)
    assert manifest["dimension"] == 32
    assert manifest["provenance"] == json.loads(merged.manifest("val").read_text())["provenance"]
    weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert manifest["provenance"]["model"]["weights_sha256"] == weights
    listed = set()
    for split, account in manifest["splits"].items():
        states = Counter(state for name, state in table(merged, "split, state") if name == split)
        assert account["states"] == states
        assert account["rows"] == states.total()
        assert account["skipped"] == {}
        for entry in account["files"]:
            path = merged.dataset / entry["file"]
            rows = line.rows(path, "id")
            assert entry["rows"] == len(rows)
            assert (entry["first_id"], entry["last_id"]) == (rows[0][0], rows[-1][0])
            assert entry["bytes"] == path.stat().st_size
            assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert json.loads(pq.read_metadata(path).metadata[b"embedome"])["provenance"] == manifest["provenance"]
            listed.add(path)
    assert listed == set(merged.dataset.rglob("split=*/*"))


def test_duplicates_across_splits_get_their_vectors(model: Path, reference: HuggingFace, tmp_path: Path) -> None:
    made = line.prepare(tmp_path, RECORDS, SHARDS, SplitSettings("bionemo", 0, 25, 25))
    made.embed(model)
    manifest = made.merge()
    assert manifest["rows"] == len(RECORDS)
    first, sequences = canonical(), dict(RECORDS)
    found = {name: rest for name, *rest in table(made, "id, split, state, embedding")}
    assert set(found) == set(sequences)
    crossing = [name for name in found if found[name][0] != found[first[name]][0]]
    assert len(crossing) > 5
    for name, (_, state, vector) in found.items():
        assert (state == "duplicate") == (name != first[name])
        assert_within_one_ulp(np.array(vector, np.float16), reference.vector(sequences[name]))


def test_duplicates_in_several_files(own: Line, merged: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "DUPLICATE_ROWS", 3)
    own.merge()
    sizes = [pq.read_metadata(path).num_rows for path in sorted(own.dataset.glob("split=train/duplicates-*.parquet"))]
    assert len(sizes) > 2
    assert sizes[:-1] == [3] * (len(sizes) - 1)
    columns = "id, split, digest, state, embedding"
    assert sorted(table(own, columns)) == sorted(table(merged, columns))


def test_skipped_sequences_and_their_duplicates_are_listed(model: Path, reference: HuggingFace, tmp_path: Path) -> None:
    made = line.prepare(tmp_path, RECORDS, SHARDS)
    made.embed(model, SKIP, line.limits(1))
    manifest = made.merge()
    sequences, first = dict(RECORDS), canonical()
    long = {name for name, sequence in RECORDS if len(sequence) > 62}
    assert {name for name in long if first[name] != name}
    found = line.vectors(made.dataset / "split=*" / "*.parquet")
    assert set(found) == set(sequences) - long
    for name, vector in found.items():
        assert_within_one_ulp(vector, reference.vector(sequences[name]))
    splits = dict(line.rows(made.folder / "splits.parquet", "id, split"))
    skipped = line.rows(made.dataset / "_skipped.parquet", "id, length, reason, split, digest")
    assert [row[0] for row in skipped] == sorted(long)
    for name, length, reason, split, digest in skipped:
        assert (length, reason, split) == (len(sequences[name]), "too-long", splits[name])
        sha = hashlib.sha512(sequences[name].encode()).digest()[:24]
        assert digest == "SQ." + base64.urlsafe_b64encode(sha).decode()
    assert manifest["rows"] == len(found)
    for split, account in manifest["splits"].items():
        mine = sum(splits[name] == split for name in long)
        assert account["skipped"] == ({"too-long": mine} if mine else {})
        assert account["rows"] + mine == sum(of == split for of in splits.values())


def test_one_sequence_and_empty_shards(model: Path, reference: HuggingFace, tmp_path: Path) -> None:
    made = line.prepare(tmp_path, [("only", "MKVL")], SHARDS)
    made.embed(model)
    assert made.merge()["rows"] == 1
    ((name, vector),) = line.vectors(made.dataset / "split=*" / "*.parquet").items()
    assert name == "only"
    assert_within_one_ulp(vector, reference.vector("MKVL"))


def test_all_sequences_skipped(model: Path, tmp_path: Path) -> None:
    made = line.prepare(tmp_path, [("only", "M" * 63)], SHARDS)
    made.embed(model, SKIP)
    manifest = made.merge()
    assert manifest["rows"] == 0
    assert [row[0] for row in line.rows(made.dataset / "_skipped.parquet", "id")] == ["only"]


# How it is made


def test_parts_are_links(merged: Line) -> None:
    for path in merged.dataset.rglob("part-*.parquet"):
        split = path.parent.name.removeprefix("split=")
        assert path.samefile(merged.folder / "embeddings" / split / path.name.removeprefix("part-"))


def test_parts_are_copied_where_they_cannot_be_linked(own: Line, merged: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    shutil.rmtree(own.dataset)
    monkeypatch.setattr(os, "link", refuse)
    own.merge()
    assert line.snapshot(own.dataset) == line.snapshot(merged.dataset)
    assert {path.stat().st_nlink for path in own.dataset.rglob("part-*.parquet")} == {1}


def test_a_full_disk_leaves_the_old_data_set_and_nothing_else(own: Line, small_disk: Path) -> None:
    """The data set lies on another file system, so that parts are copied there."""
    dataset = small_disk / "dataset"
    own.merge(dataset)
    before = line.snapshot(small_disk)
    (small_disk / "ballast").write_bytes(bytes((1 << 20) - 4096 * (len(before) + 12)))
    with pytest.raises(OSError, match="No space left on device"):
        own.merge(dataset)
    (small_disk / "ballast").unlink()
    assert line.snapshot(small_disk) == before
    own.merge(dataset)
    assert line.snapshot(small_disk) == before


def test_workers_that_are_processes_give_the_same_bytes(
    own: Line, merged: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    monkeypatch.setattr(DaskWorkers, "start", lambda self: LocalCluster(n_workers=2, dashboard_address=None))
    own.merge()
    assert line.snapshot(own.dataset) == line.snapshot(merged.dataset)


@pytest.mark.parametrize("threads", [1, 5])
def test_a_second_merge_gives_the_same_bytes(own: Line, merged: Line, threads: int) -> None:
    own.merge(threads=threads)
    assert line.snapshot(own.dataset) == line.snapshot(merged.dataset)
    own.merge(own.folder / "elsewhere", list(reversed(own.manifests)), threads)
    assert line.snapshot(own.folder / "elsewhere") == line.snapshot(merged.dataset)


# Other readers


def test_pyarrow_opens_the_folder(merged: Line) -> None:
    dataset = ds.dataset(merged.dataset, format="parquet", partitioning="hive")
    found = dataset.to_table(columns=["id", "split", "embedding"])
    assert sorted(found["id"].to_pylist()) == sorted(name for name, _ in RECORDS)
    assert found.schema.field("embedding").type.value_type == pa.float16()
    splits = dict(line.rows(merged.folder / "splits.parquet", "id, split"))
    assert dict(zip(found["id"].to_pylist(), found["split"].to_pylist(), strict=True)) == splits
    val = dataset.to_table(filter=ds.field("split") == "val", columns=["id"])
    assert set(val["id"].to_pylist()) == {name for name, split in splits.items() if split == "val"}


def test_metadata_file_covers_all_files(merged: Line) -> None:
    metadata = pq.read_metadata(merged.dataset / "_metadata")
    assert metadata.num_rows == len(RECORDS)
    rows = Counter()
    for i in range(metadata.num_row_groups):
        rows[metadata.row_group(i).column(0).file_path] += metadata.row_group(i).num_rows
    paths = merged.dataset.rglob("split=*/*.parquet")
    assert rows == {str(path.relative_to(merged.dataset)): pq.read_metadata(path).num_rows for path in paths}
    whole = ds.parquet_dataset(merged.dataset / "_metadata", partitioning="hive").to_table()
    assert sorted(whole["id"].to_pylist()) == sorted(name for name, _ in RECORDS)
    common = pq.read_schema(merged.dataset / "_common_metadata")
    assert common.names == [name for name in whole.column_names if name != "split"]


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # dask's own
def test_dask_reads_it(merged: Line) -> None:
    frame = dd.read_parquet(merged.dataset)
    found = frame[["id", "split", "length"]].compute(scheduler="synchronous")
    lengths = {name: len(sequence) for name, sequence in RECORDS}
    assert dict(zip(found["id"], found["length"], strict=True)) == lengths
    assert len(found) == len(RECORDS)
    assert set(found["split"]) == set(SHARDS)


# Killed merges


@pytest.fixture(scope="module")
def two_versions(model: Path, other_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Line, dict, dict]:
    """A line with a merged data set and newer parts that wait to be merged; both versions' bytes."""
    made = line.prepare(tmp_path_factory.mktemp("versions") / "line", RECORDS, SHARDS)
    made.embed(model, parts=line.limits(1))
    made.merge()
    old = line.snapshot(made.dataset)
    for manifest in made.manifests:
        manifest.unlink()
    made.embed(other_model, parts=line.limits(1))
    made.merge(made.folder / "expected")
    new = line.snapshot(made.folder / "expected")
    shutil.rmtree(made.folder / "expected")
    assert old != new
    return made, old, new


def merge_work(made: Line, dataset: Path) -> Callable[[], dict]:
    sources = (made.folder / name for name in ("shards.json", "catalog", "splits.parquet"))
    return partial(merge.merge_shards, made.manifests, *sources, dataset, workers=DaskWorkers(threads=2))


@pytest.mark.slow
def test_two_merges_at_once(two_versions: tuple[Line, dict, dict], processes: Processes) -> None:
    made, _, new = two_versions
    dataset = made.folder / "twice" / "dataset"
    for _ in range(4):
        both = [processes.start(merge_work(made, dataset)) for _ in range(2)]
        for process in both:
            process.join(60)
        # The one that comes second may find its folder gone; it must not publish half of it.
        assert 0 in [process.exitcode for process in both]
        assert line.snapshot(dataset) == new
        assert [path.name for path in dataset.parent.iterdir()] == ["dataset"]
    shutil.rmtree(dataset.parent)


@pytest.mark.slow
def test_a_killed_merge_leaves_the_old_data_set(two_versions: tuple[Line, dict, dict], processes: Processes) -> None:
    made, old, new = two_versions
    present = {path.name for path in made.folder.iterdir()}
    work = merge_work(made, made.dataset)
    rng = random.Random(6)
    assert line.snapshot(made.dataset) == old
    kills = 0
    for _ in range(10):
        before = set(made.folder.iterdir())
        process = processes.start(work)
        kills += processes.kill(process, rng.uniform(0, 0.1), lambda before=before: set(made.folder.iterdir()) - before)
        assert line.snapshot(made.dataset) in (old, new)
    assert kills >= 8
    assert {path.name for path in made.folder.iterdir()} > present
    processes.run(work)
    assert line.snapshot(made.dataset) == new
    assert {path.name for path in made.folder.iterdir()} == present


def test_a_crash_between_the_two_renames_is_repaired(own: Line, merged: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, calls = os.replace, []

    def crash(source: Path, target: Path) -> None:
        calls.append(target)
        if Path(target) == own.dataset:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files.os, "replace", crash)
        patch.setattr(atomic_files.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            own.merge()
    old, new = sorted(own.folder.glob(".dataset.*"), key=lambda path: path.stat().st_mtime_ns)
    assert line.snapshot(old) == line.snapshot(new) == line.snapshot(merged.dataset)
    own.merge()
    assert line.snapshot(own.dataset) == line.snapshot(merged.dataset)
    assert not list(own.folder.glob(".*"))


# Per-residue embeddings and several poolings


def test_residues_lie_beside_the_rows(rich: Line, reference: HuggingFace) -> None:
    first, sequences = canonical(), dict(RECORDS)
    splits = dict(line.rows(rich.folder / "splits.parquet", "id, split"))
    files = rich.dataset / "_residues" / "split=*" / "*.parquet"
    found = line.rows(files, "id, digest, residue_embeddings, split")
    assert sorted(row[0] for row in found) == sorted(set(first.values()))
    digests = dict(table(rich, "id, digest"))
    for name, digest, states, split in found:
        assert (digest, split) == (digests[name], splits[name])
        assert_within_one_ulp(np.array(states, np.float16), reference.residues(sequences[name]))
    listed = json.loads((rich.dataset / "_manifest.json").read_text())["splits"]
    for split, entry in listed.items():
        assert len(entry["residues"]) == len([each for each in entry["files"] if "/part-" in each["file"]]), split
        for file in entry["residues"]:
            path = rich.dataset / file["file"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]
            assert pq.read_metadata(path).num_rows == file["rows"]


def test_duplicates_have_both_vectors_and_the_rows_are_as_without_residues(rich: Line, merged: Line) -> None:
    found = {name: rest for name, *rest in table(rich, "id, embedding, embedding_max, state")}
    for name, canonical_name in canonical().items():
        assert found[name][:2] == found[canonical_name][:2]
    assert {name: rest[0] for name, rest in found.items()} == dict(table(merged, "id, embedding"))
    frame = pd.read_parquet(rich.dataset)  # the folder of residues does not get in the way
    assert len(frame) == len(RECORDS)


def test_open_dataset_gives_residues_and_each_pooling(rich: Line, merged: Line, reference: HuggingFace) -> None:
    data, first, sequences = open_dataset(rich.dataset), canonical(), dict(RECORDS)
    ids = random.Random(1).sample(sorted(first), 30)
    assert any(first[name] != name for name in ids)
    for name, states, mean, maximum in zip(
        ids, data.residues(ids), data.get(ids), data.get(ids, pooling="max"), strict=True
    ):
        exact = reference.residues(sequences[name])
        assert_within_one_ulp(states, exact)
        assert_within_one_ulp(mean, exact.mean(0))
        assert_within_one_ulp(maximum, exact.max(0))
    assert data.to_dask(pooling="max").compute(scheduler="synchronous").shape == (len(RECORDS), 32)
    with pytest.raises(UserError, match="no vectors of pooling 'first'; there are mean, max"):
        data.get(ids, pooling="first")
    with pytest.raises(UserError, match="no per-residue embeddings; embed with per_residue"):
        open_dataset(merged.dataset).residues(ids)
