"""Leakage, against alignments by Biopython, counts by DuckDB and a loop."""

import itertools
import json
import math
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedome.catalog.rows import ids_of_rows
from embedome.common.errors import UserError
from embedome.splits.cluster_table import CLUSTERS
from embedome.splits.drop_leaks import LeakedRows, drop_leaks
from embedome.splits.held_out import HeldOut, SearchSettings
from embedome.splits.leakage import THRESHOLDS, NearestHits, measure_leakage
from embedome.splits.split import split_catalog
from embedome.splits.split_methods import SplitSettings
from embedome.splits.split_table import SCHEMA
from helpers.filtered import Filtered, run_filter, small_groups, tree, write_fasta
from helpers.relatives import (
    Pair,
    align_all,
    changed,
    covers,
    families,
    family,
    identities,
    mmseqs,
    needs_mmseqs,
    record_commands,
    repetitive_families,
    value_of,
)
from hypothesis import given
from hypothesis import strategies as st

SEARCH = SearchSettings(5.7, 0.8, 0, 1e-3)


def run_split(run: Filtered, method: str = "hash", val: float = 12, test: float = 8, name: str = "splits") -> Path:
    splits = run.catalog.parent / f"{name}.parquet"
    plan = SplitSettings(method, 0, val, test)
    split_catalog(run.catalog, run.summary, plan, splits=splits, summary=splits.with_suffix(".json"))
    return splits


def measure(
    run: Filtered, splits: Path, threads: int = 1, plan: SearchSettings = SEARCH
) -> tuple[dict[str, tuple], dict]:
    """Rows of the table by id, and the summary, which is checked against them."""
    folder = run.catalog.parent
    table, summary = folder / "leakage.parquet", folder / "leakage.json"
    result = measure_leakage(
        run.catalog, splits, plan, leakage=table, summary=summary, mmseqs=mmseqs(threads, memory_mb=2000)
    )
    assert json.loads(summary.read_text()) == result
    for split, account in result["splits"].items():
        counts = ", ".join(
            f"count(*) FILTER ({each})" for each in ["NOT searched", *(f"identity >= {t}" for t in THRESHOLDS)]
        )
        total, none, not_searched, *at_least = duckdb.sql(
            f"SELECT count(*), count(*) - count(nearest), {counts} FROM '{table}' WHERE split = '{split}'"
        ).fetchall()[0]
        assert [account[key] for key in ("sequences", "without_hit", "not_searched")] == [total, none, not_searched]
        found = [(each["identity"], each["sequences"], each["fraction"]) for each in account["thresholds"]]
        assert found == [(t, n, n / total if total else None) for t, n in zip(THRESHOLDS, at_least, strict=True)]
    rows = duckdb.sql(f"SELECT * FROM '{table}'").fetchall()
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert not [name for name in tree(folder) if "scratch" in name]
    return {row[0]: row[1:] for row in rows}, result


def sequences_of(run: Filtered, splits: Path, *names: str) -> dict[str, str]:
    """Distinct sequences of splits, by canonical id."""
    return dict(
        duckdb.sql(f"""
        SELECT id, sequence FROM '{run.catalog}/*.parquet' JOIN '{splits}' USING (id)
        WHERE duplicate_of IS NULL AND split IN ({", ".join(map(repr, names))})
    """).fetchall()
    )


@pytest.fixture
def related(tmp_path: Path) -> Filtered:
    """Families of five, and every ninth sequence twice."""
    records = families(20, 5, (0.05, 0.4))
    records += [(f"z{name}", sequence) for name, sequence in records[::9]]
    return run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", records))


@needs_mmseqs
def test_nearest_hits_are_those_of_alignments_on_any_threads_and_in_any_order(
    related: Filtered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = run_split(related)
    rows, result = measure(related, splits)
    check_against_alignments(related, splits, rows, result)
    names = ("leakage.parquet", "leakage.json")
    expected = {name: (tmp_path / name).read_bytes() for name in names}
    records = related.rows("id, sequence")
    random.Random(3).shuffle(records)
    small_groups(monkeypatch)
    other = run_filter(tmp_path / "other", write_fasta(tmp_path / "other.fasta", records))
    commands = record_commands(monkeypatch)
    measure(other, run_split(other), threads=2)
    assert {name: (tmp_path / "other" / name).read_bytes() for name in names} == expected
    check_command(commands["ungappedprefilter"], result)


def check_command(arguments: list[str], result: dict) -> None:
    """What was run is what the summary says, in the threads that there are."""
    assert value_of(arguments, "--threads") == "2"
    said = subprocess.run(["mmseqs", "version"], capture_output=True, text=True, check=True).stdout.strip()
    assert (result["program"], result["version"]) == ("MMseqs2", said)
    options = {"--cov-mode": "0", "--max-seqs": "300", "--comp-bias-corr": "0"}
    assert {option: value_of(arguments, option) for option in options} == options
    options |= {"-s": "5.7", "-c": "0.8", "-e": "0.001"}
    assert {option: value_of(result["arguments"], option) for option in options} == options


def check_against_alignments(related: Filtered, splits: Path, rows: dict[str, tuple], result: dict) -> None:
    held, train = sequences_of(related, splits, "val", "test"), sequences_of(related, splits, "train")
    assert set(rows) == set(held)
    assert result["train"]["sequences"] == len(train)
    best: dict[str, float] = {}
    pairs = {}
    for query, target, identity in identities(held, train):
        pairs[query, target] = identity
        best[query] = max(best.get(query, 0), identity)
    split_of = dict(duckdb.sql(f"SELECT id, split FROM '{splits}'").fetchall())
    for name, (split, nearest, identity, coverage, nearest_coverage, e_value, bits, searched) in rows.items():
        assert searched
        assert split == split_of[name]
        if nearest is None:
            # MMseqs2 finds relatives by words: it misses some that are far apart.
            assert best.get(name, 0) < 0.5
            continue
        assert min(coverage, nearest_coverage) >= 0.8
        assert e_value <= 1e-3
        assert bits > 0
        # There may be another alignment that is as good.
        assert identity == pytest.approx(pairs[name, nearest], abs=0.01)
        assert identity >= best[name] - 0.01
    assert sum(row[1] is not None for row in rows.values()) > 15


@needs_mmseqs
def test_duplicates_apart_are_hits_of_identity_one(tmp_path: Path) -> None:
    """As bionemo draws them; some too short or too repetitive for any search."""
    chance = random.Random(5)
    texts = ["MK", "A" * 60, "ACGT" * 15, *("".join(chance.choices("ACDEFGHIKL", k=90)) for _ in range(17))]
    records = [(f"{chance.getrandbits(32):08x}", text) for text in texts for _ in range(3)]
    chance.shuffle(records)
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", records))
    splits = run_split(run, "bionemo", val=12, test=12)
    rows, _ = measure(run, splits)
    split_of = dict(duckdb.sql(f"SELECT id, split FROM '{splits}'").fetchall())
    where: dict[tuple[str, str], list[str]] = {}
    for name, text in sorted(records):
        where.setdefault((text, split_of[name]), []).append(name)
    expected = {}
    for (text, split), names in where.items():
        if split != "train":
            expected[names[0]] = (split, where.get((text, "train"), [None])[0])
    assert {name: row[:2] for name, row in rows.items() if row[1]} == {
        name: pair for name, pair in expected.items() if pair[1]
    }
    assert set(rows) == set(expected)
    assert all(row[2:5] == (1, 1, 1) for row in rows.values() if row[1])
    assert any(row[1] and row[5] is None for row in rows.values())
    assert any(row[5] is not None and row[5] < 1e-20 for row in rows.values())


@needs_mmseqs
@pytest.mark.parametrize(("val", "test"), [(0, 0), (100, 0)])
def test_nothing_to_search(related: Filtered, val: int, test: int) -> None:
    rows, result = measure(related, run_split(related, val=val, test=test))
    assert len(rows) == val
    assert not any(row[1] for row in rows.values())
    assert result["splits"]["test"]["thresholds"][0] == {"identity": 0.3, "sequences": 0, "fraction": None}


@pytest.fixture(params=["all pairs", "words"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a small train is searched, and how a large one is."""
    if request.param == "words":
        monkeypatch.setattr("embedome.splits.train_search.ALL_PAIRS", 0)
    return request.param


def explain_miss(pair: Pair, found: float | None, residues: int, e_value: float) -> str:
    """Why a pair's identity was not found."""
    bits = (0.267 * pair.score - math.log(0.041)) / math.log(2)  # BLOSUM62, 11 and 1: Altschul & Gish 1996
    if residues * 2**-bits > e_value / 20:
        return "E-value"
    return "another alignment" if found and pair.identity - found < 0.05 else "missed"


@needs_mmseqs
@pytest.mark.slow
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_repetitive_sequences_are_found_as_ordinary_ones_are(way: str, mode: int, tmp_path: Path) -> None:
    """All that Biopython's alignments of all pairs say, but for what the E-value rules out."""
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", repetitive_families(14)), min_length=20)
    splits = run_split(run, val=60, test=60)
    held, train = sequences_of(run, splits, "val", "test"), sequences_of(run, splits, "train")
    assert len(held) + len(train) > 250
    rows, _ = measure(run, splits, plan=replace(SEARCH, coverage_mode=mode))
    best: dict[str, Pair] = {}
    for pair in align_all(held, train):
        if covers(pair, SEARCH.coverage, mode) and (
            pair.query not in best or pair.identity > best[pair.query].identity
        ):
            best[pair.query] = pair
    residues = sum(map(len, train.values()))
    for threshold in (0.5, 0.7, 0.9):
        near = {name: pair for name, pair in best.items() if pair.identity >= threshold}
        lost = {name: pair for name, pair in near.items() if (rows[name][2] or 0) < threshold}
        why = {
            name: (explain_miss(pair, rows[name][2], len(held[name]) * residues, SEARCH.e_value), pair)
            for name, pair in lost.items()
        }
        assert len(lost) <= 0.01 * len(near), why
        assert "missed" not in [reason for reason, _ in why.values()], why
        assert not [name for name, row in rows.items() if (row[2] or 0) >= threshold + 0.05 and name not in near]
    assert {name.split("_")[1] for name, pair in best.items() if pair.identity >= 0.7} >= {"repeats", "few", "letter"}


@pytest.mark.slow
@needs_mmseqs
def test_repetitive_leaks_are_dropped(way: str, tmp_path: Path) -> None:
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", repetitive_families(8)), min_length=20)
    drawn = run_split(run, val=40, test=30)
    splits, result = drop(run, drawn, 0.7)
    assert result["rejected"]["leak"]["sequences"] > 30
    held, train = sequences_of(run, splits, "val", "test"), sequences_of(run, splits, "train")
    assert len(train) > 50
    left = [pair for pair in align_all(held, train) if covers(pair, 0.8, 0) and pair.identity >= 0.7]
    assert not left


@pytest.mark.slow
@needs_mmseqs
@pytest.mark.parametrize("unit", ["Q", "GAPKWTE", "X"])
def test_where_all_sequences_are_repetitive(way: str, unit: str, tmp_path: Path) -> None:
    records = [(f"r{length}", (unit * 60)[:length]) for length in range(20, 60)]
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", records))
    rows, result = measure(run, run_split(run))
    counted = [(split["without_hit"], split["not_searched"], split["sequences"]) for split in result["splits"].values()]
    if unit == "X":
        assert counted == [(12, 12, 12), (8, 8, 8)]
        assert not any(row[7] for row in rows.values())
    else:
        assert counted == [(0, 0, 12), (0, 0, 8)]
        assert all(row[2] == 1 for row in rows.values())
    drop(run, run_split(run), 0.5)


@needs_mmseqs
def test_what_cannot_be_searched_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unknown residues, alignments that MMseqs2 ends, sequences that it does not take, and too high an E-value."""
    chance = random.Random(6)
    texts = {
        "unknown": "X" * 50, "huge": "".join(chance.choices("ACDEFGHIKLMNPQRSTVWY", k=66_000)),
        "long": "".join(chance.choices("ACDEFGHIKLMNPQRSTVWY", k=9_000)), "tiny": "MKWVYHPCDE" * 3,
        "sound": "".join(chance.choices("ACDEFGHIKLMNPQRSTVWY", k=200)),
    }  # fmt: skip
    records = [(f"{name}{copy}", changed(chance, text, 0.02)) for name, text in texts.items() for copy in "ab"]
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", records))
    splits = tmp_path / "splits.parquet"
    names = [name for (name,) in run.rows("id")]
    held = ["val" if name.endswith("a") else "train" for name in names]
    pq.write_table(pa.table({"id": names, "split": held}, schema=SCHEMA), splits)
    rows, result = measure(run, splits, plan=replace(SEARCH, e_value=1e-40))
    assert {name for name, row in rows.items() if not row[7]} == {"unknowna", "hugea", "longa", "tinya"}
    assert rows["sounda"][1] == "soundb"
    assert rows["longa"][1] is None
    assert result["splits"]["val"]["not_searched"] == 4
    assert result["train"] == {"sequences": 5, "not_searched": 1}
    assert "val: 4 sequences cannot be searched" in caplog.text


def drop(run: Filtered, drawn: Path, above: float) -> tuple[Path, dict]:
    splits = run.catalog.parent / "kept.parquet"
    result = drop_leaks(
        run.catalog,
        drawn,
        drawn.with_suffix(".json"),
        run.summary,
        SEARCH,
        above,
        splits=splits,
        summary=splits.with_suffix(".json"),
        rejects=run.catalog.parent / "rejects_leak.parquet",
        mmseqs=mmseqs(),
    )
    assert json.loads(splits.with_suffix(".json").read_text()) == result
    return splits, result


@needs_mmseqs
@pytest.mark.slow
def test_after_dropping_no_leak_is_left(related: Filtered, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the first search finds one of a query's many relatives."""
    drawn = run_split(related)
    held, train = sequences_of(related, drawn, "val", "test"), sequences_of(related, drawn, "train")
    close = {target for _, target, identity in identities(held, train) if identity >= 0.55}
    assert len(close) > 20
    monkeypatch.setattr("embedome.splits.drop_leaks.MAX_CANDIDATES", 1)
    monkeypatch.setattr("embedome.splits.drop_leaks.MORE_CANDIDATES", 1000)
    splits, result = drop(related, drawn, 0.5)
    monkeypatch.undo()
    after, _ = measure(related, splits)
    assert set(after) == set(held)
    assert all((row[2] or 0) < 0.5 for row in after.values())
    held, train = sequences_of(related, splits, "val", "test"), sequences_of(related, splits, "train")
    assert max(identity for *_, identity in identities(held, train)) < 0.55

    old, new = (dict(duckdb.sql(f"SELECT id, split FROM '{each}'").fetchall()) for each in (drawn, splits))
    assert list(old) == list(new)
    gone = {name for name in old if old[name] != new[name]}
    assert close <= gone
    assert {(old[name], new[name]) for name in gone} == {("train", "rejected")}
    rejects = duckdb.sql(f"SELECT * FROM '{splits.parent}/rejects_leak.parquet'").fetchall()
    assert [row[0] for row in rejects] == sorted(gone)
    records = list(related.rows("id, record, length, duplicate_of"))
    where = {name: (record, length) for name, record, length, _ in records}
    for name, reason, detail, file, number, length, description in rejects:
        assert (reason, file, description) == ("leak", "x.fasta", "")
        assert (number - 1, length) == where[name]
        _, identity, _, query, _, split = detail.split()
        assert float(identity) >= 0.5
        assert old[query] == split != "train"
    # A dropped sequence's duplicates go with it.
    assert all((name in gone) == (canonical in gone) for name, _, _, canonical in records if canonical)
    duplicates = sum(canonical is not None for name, _, _, canonical in records if name in gone)
    assert result["rejected"] == {
        "leak": {"sequences": len(gone), "duplicates": duplicates, "residues": sum(where[name][1] for name in gone)}
    }
    assert result["kept"] == len(old) - len(gone) == sum(each["sequences"] for each in result["splits"].values())


@needs_mmseqs
def test_leaks_beside_what_clusters_rejected(
    related: Filtered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record that is in no split is listed once, and counted for the stage that lists it."""
    monkeypatch.setattr("embedome.splits.drop_leaks.search", search_by_name)
    rows = related.rows("id, duplicate_of, length")
    names = [name for name, duplicate, _ in rows if duplicate is None]
    # Members 0 to 2 of each family are a cluster, and 3 and 4 another one: so families are in several splits.
    label = {name: f"{family(name)} {int(name[-1]) // 3}" for name in names}
    number = {each: place for place, each in enumerate(dict.fromkeys(label.values()))}
    leader = {label[name]: name for name in names}
    columns = ([names], [[leader[label[name]] for name in names]], [[number[label[name]] for name in names]])
    pq.write_table(pa.table([pa.chunked_array(each) for each in columns], schema=CLUSTERS), tmp_path / "clusters")
    drawn, redundant = tmp_path / "splits.parquet", tmp_path / "rejects_redundant.parquet"
    before = split_catalog(
        related.catalog, related.summary, SplitSettings("cluster", 0, 8, 6),
        splits=drawn, summary=drawn.with_suffix(".json"), clusters=tmp_path / "clusters", rejects=redundant,
    )  # fmt: skip
    splits, result = drop(related, drawn, 0.5)
    split_of = dict(duckdb.sql(f"SELECT id, split FROM '{splits}'").fetchall())
    listed = {
        reason: {name for (name,) in duckdb.sql(f"SELECT id FROM '{path}'").fetchall()}
        for reason, path in (("redundant", redundant), ("leak", tmp_path / "rejects_leak.parquet"))
    }
    assert not listed["redundant"] & listed["leak"]
    assert listed["redundant"] | listed["leak"] == {name for name, split in split_of.items() if split == "rejected"}
    expected = {}
    for reason, mine in listed.items():
        lost = [(duplicate, length) for name, duplicate, length in rows if name in mine]
        duplicates = sum(duplicate is not None for duplicate, _ in lost)
        expected[reason] = {
            "sequences": len(mine), "duplicates": duplicates, "residues": sum(length for _, length in lost)
        }  # fmt: skip
        assert min(expected[reason].values()) > 0
    assert result["rejected"] == expected
    assert result["rejected"]["redundant"] == before["rejected"]["redundant"]
    assert result["kept"] == len(rows) - sum(map(len, listed.values()))
    assert result["kept"] == sum(split["sequences"] for split in result["splits"].values())


def search_by_name(held: HeldOut, targets: np.ndarray, *_: object) -> Iterator[dict[str, np.ndarray]]:
    """All pairs of one family, in place of a search, which takes seconds."""
    names = ids_of_rows(held.catalog, np.arange(len(held.codes))).to_pylist()
    rows = [np.flatnonzero(each).tolist() for each in (held.queries, targets)]
    pairs = [pair for pair in itertools.product(*rows) if family(names[pair[0]]) == family(names[pair[1]])]
    query, target = np.array(pairs, np.int64).reshape(-1, 2).T
    yield {"query": query, "target": target, "identity": np.full(len(pairs), 0.9)}


@needs_mmseqs
def test_splits_with_duplicates_apart_are_refused(tmp_path: Path) -> None:
    records = [(f"{number:02d}", "MKTAYIAKQR" * (1 + number % 4)) for number in range(40)]
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", records))
    drawn = run_split(run, "bionemo", val=10, test=10)
    with pytest.raises(UserError, match="duplicates are not in the split of their canonical id"):
        drop(run, drawn, 0.5)


# Of many hits the best, however they come.

hit = st.tuples(
    st.integers(0, 4), st.integers(5, 9), st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from([30.0, 40.0, 50.0])
)


class Rows:
    """Five queries, rows 0 to 4, and five targets."""

    queries = np.arange(10) < 5
    codes = np.array([0] * 5 + [2] * 5, np.int8)


def pieces(hits: list[tuple], cuts: list[int]) -> list[dict[str, np.ndarray]]:
    """Hits in several pieces."""
    found = []
    for piece in np.split(np.arange(len(hits)), sorted(cuts)):
        columns = zip(*(hits[row] for row in piece), strict=True) if len(piece) else [()] * 4
        query, target, identity, bits = (np.array(column) for column in columns)
        rest = dict.fromkeys(("coverage", "target_coverage", "evalue"), bits * 2)
        found.append(
            {"query": query.astype(int), "target": target.astype(int), "identity": identity, "bits": bits, **rest}
        )
    return found


@given(st.lists(hit, max_size=25, unique_by=lambda each: each[:2]), st.lists(st.integers(0, 25), max_size=3))
def test_the_nearest_of_all_hits(hits: list[tuple], cuts: list[int]) -> None:
    nearest = NearestHits(Rows())
    for piece in pieces(hits, [min(cut, len(hits)) for cut in cuts]):
        nearest.add(piece)
    for query in range(5):
        mine = sorted((-identity, -bits, target) for row, target, identity, bits in hits if row == query)
        if not mine:
            assert nearest.target[query] == -1
            assert np.isnan(nearest.values["identity"][query])
        else:
            found = (-nearest.values["identity"][query], -nearest.values["bits"][query], nearest.target[query])
            assert found == mine[0]
            assert nearest.values["coverage"][query] == 2 * -mine[0][1]


@given(st.lists(hit, max_size=25, unique_by=lambda each: each[:2]), st.lists(st.integers(0, 25), max_size=3))
def test_all_leaks_with_their_best_hit(hits: list[tuple], cuts: list[int]) -> None:
    leaks = LeakedRows(10, 0.5)
    for piece in pieces(hits, [min(cut, len(hits)) for cut in cuts]):
        leaks.add(piece)
    for target in range(10):
        mine = sorted((-identity, query) for query, row, identity, _ in hits if row == target and identity >= 0.5)
        assert leaks.found[target] == bool(mine)
        if mine:
            assert (-leaks.identity[target], leaks.query[target]) == mine[0]
