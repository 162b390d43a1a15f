"""Rows taken from an earlier data set: only new sequences are embedded, and the result is that of embedding all."""

import itertools
import json
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256
from embedome.dataset.reuse import Reuse
from embedome.dataset.verify import verify_dataset
from embedome.embedding.settings import EmbedSettings
from embedome.merging import reused_rows
from embedome.merging.ledger import write_ledger
from embedome.splits.split_methods import SplitSettings
from helpers import small_run as line
from helpers.small_run import Line

SHARDS = {"val": 1, "test": 1, "train": 2}
PLAN = SplitSettings("hash", 3, 0.3, 0.2)
OLD = line.random_records(7, [*range(1, 60), 70, 80, 90])


def next_release(seed: int, old: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What may happen between releases, to a third of the records each: gone, renamed, other sequence; and new ones."""
    rng = random.Random(seed)
    kept = rng.sample(old, len(old) * 4 // 5)
    records = []
    for name, sequence in kept:
        change = rng.choice(["none", "none", "name", "sequence"])
        name = f"{rng.choice('AZ')}{name}" if change == "name" else name
        records.append((name, line.random_sequence(rng, len(sequence)) if change == "sequence" else sequence))
    records += [(f"N{seed}{number}", line.random_sequence(rng, rng.randint(1, 70))) for number in range(20)]
    copies = rng.sample(records, 6)
    records += [(f"{rng.choice('BY')}{name}", sequence) for name, sequence in copies]
    rng.shuffle(records)
    return records


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line.rough_model(tmp_path_factory.mktemp("reuse") / "model")


@pytest.fixture(scope="module")
def old(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Line:
    """The earlier run, with duplicates; read only."""
    again = [(f"{name}x", sequence) for name, sequence in OLD[:5]]
    return whole(tmp_path_factory.mktemp("old") / "line", [*OLD, *again], model)


def whole(
    folder: Path,
    records: Iterable[tuple[str, str]],
    model: Path,
    settings: EmbedSettings | None = None,
    old: Line | None = None,
    plan: SplitSettings = PLAN,
    alike: Callable[[str], object] | None = None,
) -> Line:
    """A run to its end, with what the earlier one has taken from there."""
    made = line.prepare(folder, records, SHARDS, plan, old and old.dataset, alike)
    made.embed(model, settings)
    made.merge(reuse=reuse_of(made, old))
    return made


def reuse_of(made: Line, old: Line | None) -> Reuse | None:
    files = [str(made.folder / name) for name in ("reused.parquet", "reuse.json")] if old else []
    return Reuse.of_files(files, old and old.dataset)


def rows(made: Line) -> list[tuple]:
    return line.rows(made.dataset / "split=*" / "*.parquet", "*", "order by id")


def shard_ids(made: Line) -> set[str]:
    return {name for path in (made.folder / "shards").rglob("*.fasta.gz") for name in line.read_fasta(path)}


def ledger(made: Line) -> Mapping:
    names = ("filter.json", "splits.json", "shards.json")
    sources = [made.folder / name for name in names]
    manifest = made.dataset / "_manifest.json"
    return write_ledger(*sources, made.manifests, manifest, made.folder / "ledger.json")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.slow
def test_the_data_set_is_that_of_embedding_all(
    seed: int, old: Line, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reused_rows, "RUN_ROWS", 3)
    records = next_release(seed, OLD)
    made = whole(tmp_path / "reused", records, model, old=old)
    every = whole(tmp_path / "whole", records, model)
    assert rows(made) == rows(every)
    assert line.rows(made.dataset / "_skipped.parquet", "*") == line.rows(every.dataset / "_skipped.parquet", "*")
    verify_dataset(made.dataset)
    for split in SHARDS:
        paths = sorted((made.dataset / f"split={split}").glob("part-*.parquet"))
        ids = [name for path in paths for (name,) in line.rows(path, "id")]
        assert ids == sorted(set(ids))
    # Only sequences that the earlier release did not have are embedded, each once.
    known = {sequence for _, sequence in OLD}
    first = {sequence: min(name for name, other in records if other == sequence) for _, sequence in records}
    assert shard_ids(made) == {name for sequence, name in first.items() if sequence not in known}
    account = ledger(made)
    assert sum(account["reused"].values()) == len(first) - len(shard_ids(made)) > 20
    assert account["states"] == ledger(every)["states"]
    assert json.loads((made.folder / "reuse.json").read_text())["reused"] == sum(account["reused"].values())


@pytest.mark.parametrize("method", ["cluster", "bionemo"])
@pytest.mark.slow
def test_sequences_that_clusters_reject_are_not_reused(method: str, old: Line, model: Path, tmp_path: Path) -> None:
    """The earlier data set has their vectors, under the same ids and under others."""
    records = next_release(5, OLD)
    plan = SplitSettings(method, 3, 0.3, 0.2)
    made, every = (
        whole(tmp_path / name, records, model, old=earlier, plan=plan, alike=lambda sequence: len(sequence) // 2)
        for name, earlier in (("reused", old), ("whole", None))
    )
    rejected = {name for (name,) in line.rows(made.folder / "rejects_redundant.parquet", "id")}
    names = [name for (name,) in line.rows(made.folder / "catalog" / "*.parquet", "id")]
    reused = line.rows(made.folder / "reused.parquet", "row, renamed")
    # Renamed or not, rejected or not: there are some of each.
    kinds = {(renamed, names[row] in rejected) for row, renamed in reused}
    assert kinds == set(itertools.product((False, True), repeat=2))
    found = rows(made)
    assert found == rows(every)
    assert {name for name, *_ in found} == set(names) - rejected
    verify_dataset(made.dataset)
    account, expected = ledger(made), ledger(every)
    assert sum(account["reused"].values()) == sum(names[row] not in rejected for row, _ in reused)
    for key in ("read", "rejected", "states", "skipped"):
        assert account[key] == expected[key]


def test_nothing_new_embeds_nothing(old: Line, model: Path, tmp_path: Path) -> None:
    made = whole(tmp_path / "line", OLD, model, old=old)
    assert shard_ids(made) == set()
    assert rows(made) == rows(whole(tmp_path / "whole", OLD, model))
    assert sum(ledger(made)["reused"].values()) == len(OLD)


def test_nothing_in_common_embeds_all(old: Line, model: Path, tmp_path: Path) -> None:
    records = line.random_records(99, range(30, 60))
    made = whole(tmp_path / "line", records, model, old=old)
    assert shard_ids(made) == {name for name, _ in records}
    assert rows(made) == rows(whole(tmp_path / "whole", records, model))


def test_headers_are_the_new_ones(old: Line, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = line.fasta_text(OLD).replace("n=2", "n=7").replace("TaxID=9606", "TaxID=4932")
    monkeypatch.setattr(line, "fasta_text", lambda _: text)
    made = whole(tmp_path / "line", OLD, model, old=old)
    assert set(line.rows(made.dataset / "split=*" / "*.parquet", "n_members, taxid")) == {(7, 4932)}


def test_sequences_that_were_skipped_are_tried_again(model: Path, tmp_path: Path) -> None:
    skip = EmbedSettings("float32", "skip")
    first = whole(tmp_path / "first", OLD, model, skip)
    made = whole(tmp_path / "line", OLD, model, skip, first)
    assert shard_ids(made) == {name for name, sequence in OLD if len(sequence) > line.MAX_RESIDUES}
    account = ledger(made)
    assert account["skipped"] == {"too-long": 3}
    assert sum(account["reused"].values()) == len(OLD) - 3
    assert rows(made) == rows(first)


@pytest.mark.slow
def test_threads_and_a_second_merge_give_the_same_bytes(old: Line, model: Path, tmp_path: Path) -> None:
    made = whole(tmp_path / "line", next_release(1, OLD), model, old=old)
    before = line.snapshot(made.dataset)
    for threads in (1, 4):
        made.merge(threads=threads, reuse=reuse_of(made, old))
        assert line.snapshot(made.dataset) == before


def test_files_are_cut_at_whole_row_groups(
    old: Line, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = whole(tmp_path / "line", OLD, model, old=old)
    expected = rows(made)
    monkeypatch.setattr(reused_rows, "GROUP_ROWS", 4)
    made.merge(file_bytes=8 * 64, reuse=reuse_of(made, old))
    for split in SHARDS:
        paths = sorted((made.dataset / f"split={split}").glob("part-*.parquet"))
        counts = [len(line.rows(path, "id")) for path in paths]
        assert set(counts[:-1]) <= {8}
        assert 0 < counts[-1] <= 8
    assert rows(made) == expected


@pytest.mark.slow
def test_a_chain_of_releases(old: Line, model: Path, tmp_path: Path) -> None:
    second = whole(tmp_path / "second", next_release(1, OLD), model, old=old)
    records = next_release(2, next_release(1, OLD)[:50])
    third = whole(tmp_path / "third", records, model, old=second)
    assert rows(third) == rows(whole(tmp_path / "whole", records, model))


# What cannot be reused


def test_another_model_is_refused_before_anything_is_embedded(old: Line, tmp_path: Path) -> None:
    made = line.prepare(tmp_path / "line", OLD, SHARDS, PLAN, old.dataset)
    with pytest.raises(UserError, match=r"made with another model; .* Set reuse.dataset to null"):
        made.embed(line.rough_model(tmp_path / "other", seed=2))
    assert not list(made.folder.rglob("embeddings/**/*.parquet"))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (EmbedSettings(pooling=("max",)), "pooling"),
        (EmbedSettings(layer=1), "layer"),
        (EmbedSettings(max_residues=30), "max_residues"),
    ],
)
def test_other_settings_are_refused(settings: EmbedSettings, name: str, old: Line, model: Path, tmp_path: Path) -> None:
    made = line.prepare(tmp_path / "line", OLD, SHARDS, PLAN, old.dataset)
    with pytest.raises(UserError, match=f"made with another {name};"):
        made.embed(model, settings)


def test_residues_cannot_be_reused(old: Line, model: Path, tmp_path: Path) -> None:
    rich = whole(tmp_path / "rich", OLD[:10], model, EmbedSettings(per_residue=True))
    with pytest.raises(UserError, match="has per-residue embeddings, which cannot be reused"):
        line.prepare(tmp_path / "line", OLD, SHARDS, PLAN, rich.dataset)


def test_a_data_set_that_changed_meanwhile_is_refused(old: Line, model: Path, tmp_path: Path) -> None:
    own = old.copy(tmp_path / "old")
    made = line.prepare(tmp_path / "line", next_release(1, OLD), SHARDS, PLAN, own.dataset)
    made.embed(model)
    manifest = own.dataset / "_manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(UserError, match="changed since the reuse stage; rerun that stage"):
        made.merge(reuse=reuse_of(made, own))
    assert not made.dataset.exists()


def test_rows_that_changed_meanwhile_are_found(old: Line, model: Path, tmp_path: Path) -> None:
    own = old.copy(tmp_path / "old")
    made = line.prepare(tmp_path / "line", OLD, SHARDS, PLAN, own.dataset)
    made.embed(model)
    one, other = sorted((own.dataset / "split=train").glob("part-*.parquet"))[:2]
    text = other.read_bytes()
    other.unlink()
    other.write_bytes(one.read_bytes())
    assert file_sha256(one) == file_sha256(other)
    with pytest.raises(UserError, match="are not those that the reuse stage found"):
        made.merge(reuse=reuse_of(made, own))
    other.write_bytes(text)
    line.flip(other, line.page_byte(other, 0, 7))
    with pytest.raises(UserError, match="damaged"):
        made.merge(reuse=reuse_of(made, own))
    assert not made.dataset.exists()


def test_a_folder_without_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no data set there"):
        line.prepare(tmp_path / "line", OLD, SHARDS, PLAN, tmp_path)
