"""The split stage, against hashes and shuffles computed here and counts by DuckDB."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from embedome.common.errors import UserError
from embedome.splits.cluster_table import CLUSTERS
from embedome.splits.split import split_catalog
from embedome.splits.split_methods import SplitSettings, draw_clusters
from helpers.filtered import Filtered, run_filter, small_groups, tree, write_fasta
from helpers.paths import ROOT
from hypothesis import example, given
from hypothesis import strategies as st

SPLITS = ("val", "test", "train")
Split = tuple[dict[str, str], dict]


def proteins(numbers: range, seed: int = 0) -> list[tuple[str, str]]:
    """Records with ids in no order; every eighth has the sequence of the one before it."""
    records = []
    for number in numbers:
        name = hashlib.md5(b"%d" % number).hexdigest()[:12]
        chance = random.Random(f"{seed} {number - (number % 8 == 7)}")
        records.append(
            (f"{name} protein {number}", "".join(chance.choices("ACDEFGHIKLMNPQRSTVWY", k=chance.randint(5, 40))))
        )
    return records


def run_split(
    run: Filtered,
    method: str = "hash",
    seed: int = 0,
    val: float = 30,
    test: float = 50,
    clusters: Path | None = None,
    rejects: Path | None = None,
    **more: str,
) -> Split:
    """Split of each id in file order, and the summary."""
    folder = run.catalog.parent
    splits, summary = folder / "splits.parquet", folder / "split.json"
    plan = SplitSettings(method, seed, val, test, **more)
    result = split_catalog(
        run.catalog, run.summary, plan, splits=splits, summary=summary, clusters=clusters, rejects=rejects
    )
    assert json.loads(summary.read_text()) == result
    rows = duckdb.sql(f"SELECT id, split FROM read_parquet('{splits}')").fetchall()
    # One row for each of the catalog's, in its order.
    assert [name for name, _ in rows] == [name for (name,) in run.rows("id")]
    check_summary(run, splits, result)
    return dict(rows), result


def check_summary(run: Filtered, splits: Path, result: dict) -> None:
    counted = duckdb.sql(f"""
        SELECT split, count(*), count(duplicate_of), sum(length)
        FROM read_parquet('{run.catalog}/*.parquet') AS catalog JOIN read_parquet('{splits}') AS splits USING (id)
        WHERE split <> 'rejected' GROUP BY split
    """).fetchall()
    expected = {name: {"sequences": 0, "duplicates": 0, "residues": 0} for name in SPLITS}
    expected |= {name: {"sequences": n, "duplicates": d, "residues": r} for name, n, d, r in counted}
    assert result["splits"] == expected


@pytest.fixture
def catalog(tmp_path: Path) -> Filtered:
    return run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", proteins(range(400))))


def ranked(run: Filtered, seed: int) -> list[str]:
    """Canonical ids in the order of their keyed hash."""
    ids = [name for name, duplicate in run.rows("id, duplicate_of") if duplicate is None]

    def rank(name: str) -> int:
        state = hashlib.blake2b(digest_size=8, key=b"%d" % seed)
        state.update(name.encode("utf-8"))
        return int.from_bytes(state.digest(), "big")

    return sorted(ids, key=rank)


@pytest.mark.parametrize("groups", ["large", "small"])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_hash_takes_the_smallest_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, seed: int) -> None:
    if groups == "small":
        small_groups(monkeypatch)
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", proteins(range(400))))
    split_of, _ = run_split(run, seed=seed, val=30, test=50)
    order = ranked(run, seed)
    assert len(order) == 350
    expected = (
        dict.fromkeys(order[:30], "val") | dict.fromkeys(order[30:80], "test") | dict.fromkeys(order[80:], "train")
    )
    assert {name: split_of[name] for name in order} == expected


@pytest.mark.parametrize(
    ("val", "test", "n_val", "n_test"),
    [
        (0, 0, 0, 0),
        (1, 1, 1, 1),
        (350, 0, 350, 0),
        (100, 250, 100, 250),
        (0.1, 0.2, 35, 70),
        (0.5, 0.5, 175, 175),
        (0.1, 7, 35, 7),
    ],
)
def test_counts_of_distinct_sequences_are_exact(
    catalog: Filtered, val: float, test: float, n_val: int, n_test: int
) -> None:
    _, result = run_split(catalog, val=val, test=test)
    distinct = {name: split["sequences"] - split["duplicates"] for name, split in result["splits"].items()}
    assert distinct == {"val": n_val, "test": n_test, "train": 350 - n_val - n_test}


def test_duplicates_follow_their_canonical_id(catalog: Filtered) -> None:
    split_of, _ = run_split(catalog, val=0.3, test=0.3)
    duplicates = [(name, canonical) for name, canonical in catalog.rows("id, duplicate_of") if canonical]
    assert len(duplicates) == 50
    assert all(split_of[name] == split_of[canonical] for name, canonical in duplicates)
    assert {split_of[name] for name, _ in duplicates} == set(SPLITS)
    leaks = duckdb.sql(f"""
        SELECT sequence FROM read_parquet('{catalog.catalog}/*.parquet') AS catalog
        JOIN read_parquet('{catalog.catalog.parent}/splits.parquet') AS splits USING (id)
        GROUP BY sequence HAVING count(DISTINCT split) > 1
    """).fetchall()
    assert leaks == []


def test_a_group_of_nothing_but_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_groups(monkeypatch)
    records = [("a", "MK"), *((f"b{number:03d}", "MK") for number in range(40)), ("c", "MKV")]
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", records))
    split_of, _ = run_split(run, val=1, test=0)
    assert Counter(split_of.values()) in ({"val": 41, "train": 1}, {"val": 1, "train": 41})


def test_hash_depends_on_the_ids_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = proteins(range(400))
    one = run_filter(tmp_path / "one", write_fasta(tmp_path / "one.fasta", records))
    random.Random(1).shuffle(records)
    small_groups(monkeypatch)
    other = run_filter(tmp_path / "other", write_fasta(tmp_path / "other.fasta", records))
    assert run_split(one)[0] == run_split(other)[0]


def test_seed_matters(catalog: Filtered) -> None:
    held_out = []
    for seed in range(4):
        split_of, result = run_split(catalog, seed=seed, val=0.3, test=0)
        assert result["seed"] == seed
        held_out.append({name for name, split in split_of.items() if split == "val"})
    for number, one in enumerate(held_out):
        for other in held_out[:number]:
            assert len(one & other) < 0.6 * len(one)  # 0.3 by chance


def test_same_plan_same_bytes(catalog: Filtered) -> None:
    run_split(catalog)
    first = tree(catalog.catalog.parent)
    run_split(catalog)
    assert tree(catalog.catalog.parent) == first


def test_a_later_release_moves_only_the_ids_at_the_thresholds(tmp_path: Path) -> None:
    old, new = proteins(range(1000), seed=1), proteins(range(1000, 1080), seed=1)
    before, _ = run_split(run_filter(tmp_path / "1", write_fasta(tmp_path / "1.fasta", old)), val=100, test=200)
    after, _ = run_split(run_filter(tmp_path / "2", write_fasta(tmp_path / "2.fasta", old + new)), val=100, test=200)
    moves = Counter((before[name], after[name]) for name in before if before[name] != after[name])
    newcomers = Counter(after[header.split()[0]] for header, _ in new)
    # Those that a new id pushed over the threshold, and none the other way.
    assert set(moves) <= {("val", "test"), ("test", "train")}
    assert moves["val", "test"] <= newcomers["val"]
    assert moves["test", "train"] <= newcomers["val"] + newcomers["test"]
    assert 0 < sum(moves.values()) < 60
    # By fractions the thresholds hardly move at all.
    before, _ = run_split(run_filter(tmp_path / "1", tmp_path / "1.fasta"), val=0.1, test=0.2)
    after, _ = run_split(run_filter(tmp_path / "2", tmp_path / "2.fasta"), val=0.1, test=0.2)
    assert sum(before[name] != after[name] for name in before) < 20


@pytest.mark.parametrize("method", ["hash", "bionemo"])
@pytest.mark.parametrize(("val", "test"), [(300, 200), (0, 401), (0.7, 0.7)])
def test_more_than_there_is(catalog: Filtered, method: str, val: float, test: float) -> None:
    before = tree(catalog.catalog.parent)
    with pytest.raises(UserError, match=r"split\.val and split\.test ask for .* but there are"):
        run_split(catalog, method, val=val, test=test)
    assert tree(catalog.catalog.parent) == before


@given(total=st.integers(0, 10**8), percent=st.tuples(st.integers(0, 99), st.integers(0, 99)))
@example(total=3, percent=(50, 50))  # both are rounded up
@example(total=7, percent=(50, 50))
def test_fractions_are_always_met(total: int, percent: tuple[int, int]) -> None:
    val, test = percent[0] / 100, min(percent[1], 100 - percent[0]) / 100
    n_val, n_test = SplitSettings("hash", 0, val, test).sizes(total)
    assert abs(n_val - val * total) <= 0.5
    assert abs(n_test - test * total) <= 1
    assert 0 <= n_val + n_test <= total


# The split of the founding models: the order of records in the input, shuffled.


def shuffled(total: int, seed: int, n_val: int, n_test: int) -> np.ndarray:
    """Split of each position."""
    order = np.arange(total)
    np.random.default_rng(seed).shuffle(order)
    splits = np.full(total, "train", object)
    splits[order[:n_val]] = "val"
    splits[order[n_val : n_val + n_test]] = "test"
    return splits


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("length_filter", ["after", "before"])
@pytest.mark.parametrize("files", [1, 2])
def test_bionemo_is_numpys_shuffle_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, length_filter: str, files: int
) -> None:
    small_groups(monkeypatch)
    records = proteins(range(400))
    cut = 400 // files
    paths = [
        write_fasta(tmp_path / f"{part}.fasta", records[start : start + cut])
        for part, start in enumerate(range(0, 400, cut))
    ]
    run = run_filter(tmp_path, *paths, max_length=25)
    assert 100 < run.account["kept"] < 300
    split_of, result = run_split(run, "bionemo", seed=seed, val=50, test=100, length_filter=length_filter)
    ids = [(header.split()[0], len(sequence) <= 25) for header, sequence in records]
    if length_filter == "before":
        ids = [(name, kept) for name, kept in ids if kept]
    expected = shuffled(len(ids), seed, 50, 100)
    assert split_of == {name: split for (name, kept), split in zip(ids, expected, strict=True) if kept}
    assert (result["splits"]["val"]["sequences"] == 50) == (length_filter == "before")


def test_bionemo_fractions_are_of_the_records_read_or_kept(tmp_path: Path) -> None:
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", proteins(range(400))), max_length=25)
    _, before = run_split(run, "bionemo", val=0.1, test=0, length_filter="before")
    assert before["splits"]["val"]["sequences"] == round(0.1 * run.account["kept"])
    split_of, _ = run_split(run, "bionemo", val=0.1, test=0, length_filter="after")
    expected = shuffled(400, 0, 40, 0)
    kept_val = [split_of[name] == "val" for name, _ in run.rows("id, record")]
    assert kept_val == [expected[record] == "val" for _, record in run.rows("id, record")]


# Files that do not belong together, and the file's form.


@pytest.mark.parametrize("method", ["hash", "bionemo"])
@pytest.mark.parametrize("kept", [3, 4000])
def test_summary_of_another_catalog(catalog: Filtered, method: str, kept: int) -> None:
    catalog.summary.write_text(json.dumps(catalog.account | {"kept": kept, "read": kept}))
    with pytest.raises(UserError, match=rf"400 records, but the filter kept {kept:,}; rerun the filter stage"):
        run_split(catalog, method, val=1, test=1)
    assert not (catalog.catalog.parent / "splits.parquet").exists()


def test_missing_and_broken_input(catalog: Filtered, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no catalog there"):
        run_split(catalog._replace(catalog=tmp_path / "none"))
    with pytest.raises(UserError, match="no such file"):
        run_split(catalog._replace(summary=tmp_path / "none.json"))
    part = next(catalog.catalog.iterdir())
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a readable Parquet file") as caught:
        run_split(catalog)
    assert str(part) in str(caught.value)


def test_form_of_the_file(catalog: Filtered) -> None:
    run_split(catalog)
    schema = pq.read_schema(catalog.catalog.parent / "splits.parquet")
    assert [(field.name, str(field.type), field.nullable) for field in schema] == [
        ("id", "string", False),
        ("split", "string", False),
    ]


# Whole clusters, and clusters as a redundancy filter.


def write_groups(run: Filtered, cluster_of: dict[str, int], leader: Callable[[list[str]], str] = max) -> Path:
    """A table of clusters as the cluster stage writes it, `cluster_of` naming that of each canonical id."""
    names = [name for name, duplicate in run.rows("id, duplicate_of") if duplicate is None]
    members: dict[int, list[str]] = {}
    for name in names:
        members.setdefault(cluster_of[name], []).append(name)
    number = {label: place for place, label in enumerate(members)}
    path = run.catalog.parent / "clusters.parquet"
    columns = [
        names,
        [leader(members[cluster_of[name]]) for name in names],
        [number[cluster_of[name]] for name in names],
    ]
    pq.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], names=CLUSTERS.names), path)
    return path


def by_letter(run: Filtered) -> dict[str, int]:
    """Clusters of the ids with the same first two letters: some dozens, of several sizes."""
    return {name: int(name[0], 16) * 4 + int(name[1], 16) // 4 for (name,) in run.rows("id")}


def draw_by_loop(sizes: list[int], ranks: list[int], asked: tuple[int, int]) -> list[str]:
    """Cluster by cluster: val where it fits, in a second walk test where it fits."""
    drawn = ["train"] * len(sizes)
    for split, room in zip(("val", "test"), asked, strict=True):
        for cluster in sorted(range(len(sizes)), key=lambda each: (ranks[each], each)):
            if drawn[cluster] == "train" and sizes[cluster] <= room:
                drawn[cluster] = split
                room -= sizes[cluster]
    return drawn


@given(
    clusters=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 20)), max_size=40),
    asked=st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_clusters_are_drawn_as_by_a_loop(clusters: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    sizes, ranks = ([each[column] for each in clusters] for column in (0, 1))
    drawn = draw_clusters(np.array(sizes, np.int64), np.array(ranks, np.uint64), asked)
    assert [SPLITS[code] for code in drawn] == draw_by_loop(sizes, ranks, asked)


@pytest.mark.parametrize("groups", ["large", "small"])
@pytest.mark.parametrize("seed", [0, 7])
def test_cluster_splits_are_of_whole_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, seed: int
) -> None:
    if groups == "small":
        small_groups(monkeypatch)
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", proteins(range(400))))
    cluster_of = by_letter(run)
    clusters = write_groups(run, cluster_of)
    split_of, result = run_split(run, "cluster", seed=seed, val=40, test=60, clusters=clusters)
    members: dict[int, list[str]] = {}
    for name, duplicate in run.rows("id, duplicate_of"):
        if duplicate is None:
            members.setdefault(cluster_of[name], []).append(name)
        else:
            assert split_of[name] == split_of[duplicate]
    order = {name: place for place, name in enumerate(ranked(run, seed))}
    labels = list(members)
    ranks = [order[min(members[label])] for label in labels]
    drawn = draw_by_loop([len(members[label]) for label in labels], ranks, (40, 60))
    expected = {name: split for label, split in zip(labels, drawn, strict=True) for name in members[label]}
    assert {name: split_of[name] for name in expected} == expected
    distinct = {name: split["sequences"] - split["duplicates"] for name, split in result["splits"].items()}
    assert distinct == Counter(expected.values())
    assert 38 <= distinct["val"] <= 40
    assert 57 <= distinct["test"] <= 60


def test_cluster_splits_depend_neither_on_the_order_nor_on_representatives(tmp_path: Path) -> None:
    records = proteins(range(400))
    one = run_filter(tmp_path / "one", write_fasta(tmp_path / "one.fasta", records))
    random.Random(1).shuffle(records)
    other = run_filter(tmp_path / "other", write_fasta(tmp_path / "other.fasta", records))
    found = [
        run_split(run, "cluster", clusters=write_groups(run, by_letter(run), leader))[0]
        for run, leader in ((one, min), (other, max))
    ]
    assert found[0] == found[1]


def test_a_cluster_larger_than_what_is_asked_for_is_train(catalog: Filtered, caplog: pytest.LogCaptureFixture) -> None:
    clusters = write_groups(catalog, {name: 0 for (name,) in catalog.rows("id")})
    split_of, _ = run_split(catalog, "cluster", val=30, test=50, clusters=clusters)
    assert set(split_of.values()) == {"train"}
    assert "split.val asks for 30 sequences; whole clusters make 0" in caplog.text


@pytest.mark.parametrize("more", [{"method": "cluster"}, {"rejects": Path("rejects.parquet")}])
def test_clusters_are_asked_for_where_they_are_needed(catalog: Filtered, more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="clusters: needed"):
        run_split(catalog, **more)


@pytest.mark.parametrize("method", ["hash", "cluster", "bionemo"])
@pytest.mark.parametrize("length_filter", ["after", "before"])
def test_representatives_alone_are_kept(catalog: Filtered, method: str, length_filter: str) -> None:
    cluster_of = by_letter(catalog)
    clusters = write_groups(catalog, cluster_of)
    rejects = catalog.catalog.parent / "rejects_redundant.parquet"
    split_of, result = run_split(
        catalog, method, val=10, test=10, clusters=clusters, rejects=rejects, length_filter=length_filter
    )
    rows = catalog.rows("id, duplicate_of, record, length, description")
    names = [name for name, duplicate, *_ in rows if duplicate is None]
    leader = {cluster_of[name]: name for name in names}  # the largest
    expected = {}
    for name, duplicate, record, length, description in rows:
        canonical = duplicate or name
        if canonical != leader[cluster_of[canonical]]:
            detail = f"represented by {leader[cluster_of[canonical]]}"
            expected[name] = ("redundant", detail, "x.fasta", record + 1, length, description)
    listed = duckdb.sql(f"SELECT * FROM '{rejects}'").fetchall()
    assert [row[0] for row in listed] == sorted(expected)
    assert {name: tuple(row) for name, *row in listed} == expected
    assert {name for name, split in split_of.items() if split == "rejected"} == set(expected)
    assert result["kept"] == len(rows) - len(expected)
    lost = result["rejected"]["redundant"]
    assert lost["sequences"] == len(expected)
    assert lost["duplicates"] == sum(duplicate is not None for name, duplicate, *_ in rows if name in expected)
    assert lost["residues"] == sum(each[4] for each in expected.values())
    if method != "bionemo":
        distinct = {name: split["sequences"] - split["duplicates"] for name, split in result["splits"].items()}
        assert distinct == {"val": 10, "test": 10, "train": len(leader) - 20}
    elif length_filter == "before":
        assert result["splits"]["val"]["sequences"] == 10


@pytest.mark.parametrize("preset", ["esm1nv", "prott5nv"])
def test_presets_split_as_the_model_cards_say(preset: str) -> None:
    """5,000 and 1,000,000 of all clusters, of which those of more than 512 residues are then dropped."""
    config = yaml.safe_load((ROOT / "presets" / f"{preset}.yaml").read_text())
    assert SplitSettings.from_config(config["split"]) == SplitSettings("bionemo", 0, 5000, 1_000_000, "after")
    assert config["filter"]["max_length"] == 512
    assert SplitSettings.from_config(config["split"]).sizes(52_500_000) == (5000, 1_000_000)
