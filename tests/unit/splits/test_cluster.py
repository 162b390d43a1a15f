"""The cluster stage, against the truth about families, alignments by Biopython and counts by DuckDB."""

import itertools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from embedome.catalog.rows import canonical_rows, ids_of_rows
from embedome.common.errors import UserError
from embedome.splits.cluster import ClusterSettings, cluster_catalog, cluster_numbers, forecast, size_histogram
from embedome.splits.cluster_table import read_clusters
from embedome.splits.mmseqs import Mmseqs, fasta_of_rows, last_lines, run_guarded
from embedome.splits.split import split_catalog
from embedome.splits.split_methods import SplitSettings
from helpers.filtered import Filtered, run_filter, small_groups, tree, write_fasta
from helpers.processes import kill_at_random, run_python, start_python
from helpers.relatives import (
    align_all,
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

PLAN = ClusterSettings("linclust", 0.5, 0.8, 0)


def run_cluster(
    run: Filtered, plan: ClusterSettings = PLAN, program: Mmseqs | None = None
) -> list[tuple[str, str, int]]:
    """Cluster a catalog; the rows of the table, and the summary is checked against it."""
    clusters, summary = run.catalog.parent / "clusters.parquet", run.catalog.parent / "cluster.json"
    result = cluster_catalog(
        run.catalog, run.summary, plan, clusters=clusters, summary=summary, mmseqs=program or mmseqs()
    )
    assert json.loads(summary.read_text()) == result
    rows = duckdb.sql(f"SELECT id, representative, cluster FROM '{clusters}'").fetchall()
    assert [name for name, _, _ in rows] == [
        name for name, duplicate in run.rows("id, duplicate_of") if duplicate is None
    ]
    sizes = [size for (size,) in duckdb.sql(f"SELECT count(*) FROM '{clusters}' GROUP BY cluster").fetchall()]
    assert result["sequences"] == sum(sizes) == len(rows)
    assert result["clusters"] == len(sizes)
    assert result["largest"] == max(sizes)
    assert sum(each["clusters"] for each in result["sizes"]) == len(sizes)
    assert sum(each["sequences"] for each in result["sizes"]) == len(rows)
    assert not [name for name in tree(run.catalog.parent) if "scratch" in name]
    return rows


@pytest.fixture
def related(tmp_path: Path) -> Filtered:
    """Thirty families of four, every seventh sequence twice."""
    records = families(30, 4, (0.02, 0.08))
    records += [
        (f"again{number}_{name.split('_')[1]}", sequence) for number, (name, sequence) in enumerate(records[::7])
    ]
    return run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", records))


@needs_mmseqs
def test_clusters_are_the_families(related: Filtered) -> None:
    rows = run_cluster(related)
    assert len(rows) == 120
    members: dict[int, set[str]] = {}
    for name, representative, number in rows:
        members.setdefault(number, set()).add(name)
        assert family(name) == family(representative)
    assert len(members) == 30
    # Numbered by their smallest ids, and the representative is one of their own.
    assert list(members) == list(range(30))
    assert [min(members[number]) for number in range(30)] == sorted(min(names) for names in members.values())
    assert all(representative in members[number] for _, representative, number in rows)
    assert len({representative for _, representative, _ in rows}) == 30


@needs_mmseqs
def test_no_similar_pair_spans_splits(related: Filtered) -> None:
    """Every pair that Biopython aligns above the clusters' identity and coverage is in one split."""
    run_cluster(related)
    folder = related.catalog.parent
    split_catalog(
        related.catalog,
        related.summary,
        SplitSettings("cluster", 0, 0.2, 0.2),
        splits=folder / "splits.parquet",
        summary=folder / "split.json",
        clusters=folder / "clusters.parquet",
    )
    split_of = dict(duckdb.sql(f"SELECT id, split FROM '{folder}/splits.parquet'").fetchall())
    sequences = dict(related.rows("id, sequence"))
    assert set(split_of) == set(sequences)
    chosen = dict(itertools.islice(sequences.items(), 45))
    similar = [pair for *pair, identity in identities(chosen, chosen) if identity >= 0.5 and pair[0] < pair[1]]
    assert len(similar) > 20
    assert {split_of[one] for one, _ in similar} == {"val", "test", "train"}
    assert all(split_of[one] == split_of[other] for one, other in similar)


@needs_mmseqs
def test_threads_memory_order_and_groups_give_the_same_bytes(
    related: Filtered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cluster(related, program=mmseqs(threads=1))
    names = ("clusters.parquet", "cluster.json")
    expected = {name: (related.catalog.parent / name).read_bytes() for name in names}
    records = [(name, sequence) for name, sequence in related.rows("id, sequence")]
    random.Random(3).shuffle(records)
    small_groups(monkeypatch)
    other = run_filter(tmp_path / "other", write_fasta(tmp_path / "other.fasta", records))
    monkeypatch.undo()
    run_cluster(other, program=mmseqs(threads=2, memory_mb=2))
    assert {name: (other.catalog.parent / name).read_bytes() for name in names} == expected


@needs_mmseqs
def test_the_program_is_given_threads_and_memory(related: Filtered, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes do not depend on it: whatever it has, they are the same."""
    commands = record_commands(monkeypatch)
    run_cluster(related, program=mmseqs(threads=2, memory_mb=1000))
    assert value_of(commands["linclust"], "--split-memory-limit") == "800M"
    assert value_of(commands["linclust"], "--threads") == "2"
    run_cluster(related, program=mmseqs())
    assert value_of(commands["linclust"], "--split-memory-limit") is None


@needs_mmseqs
def test_short_odd_and_repetitive_sequences_and_ids_are_all_there(tmp_path: Path) -> None:
    chance = random.Random(2)
    records = [
        ("../a/b", "M"), ("'x\" y", "MK"), ("β", "ACGT" * 20), (">g", "A" * 300), ("sp|P1|X_Y", "X" * 40),
        ("tr|P1|X_Z", "UOBJZ" * 8), ("7", "".join(chance.choices("ACDEFGHIKLMNPQRSTVWY", k=66000))), ("0", "MK"),
    ]  # fmt: skip
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", records), min_length=1)
    rows = run_cluster(run)
    assert len(rows) == len(run.rows("id")) - 1 == 7


@needs_mmseqs
@pytest.mark.slow
def test_cluster_finds_what_linclust_does_not(tmp_path: Path) -> None:
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", families(12, 3, (0.3, 0.4), length=200)))
    fast = run_cluster(run, ClusterSettings("linclust", 0.3, 0.8, 0))
    slow = run_cluster(run, ClusterSettings("cluster", 0.3, 0.8, 0), mmseqs(threads=2))
    assert len({number for _, _, number in slow}) < len({number for _, _, number in fast})
    assert all(family(name) == family(representative) for name, representative, _ in slow)


@needs_mmseqs
def test_what_is_expected_is_said_before(related: Filtered, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run_cluster(related, ClusterSettings("linclust", 0.3, 0.8, 0))
    assert "linclust finds next to no pairs below 0.5" in caplog.text
    assert "clustering 120 sequences: 0.00 to 0.00 hours on 1 threads" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        run_cluster(related)
    assert caplog.text == ""


def test_forecast_of_uniref50() -> None:
    words = forecast("linclust", 60_500_000, 17_300_000_000, 28)
    assert "0.07 to 0.38 hours on 28 threads and 37.6 GB" in words
    assert "more than 2.82 hours" in forecast("cluster", 60_500_000, 17_300_000_000, 28)
    assert "131.3 GB" in forecast("cluster", 60_500_000, 17_300_000_000, 28)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.randoms())
def test_numbers_follow_the_smallest_row(labels: list[int], chance: random.Random) -> None:
    distinct = np.array([chance.random() < 0.8 for _ in labels])
    distinct[0] = True
    leader: dict[int, int] = {}
    for row, label in enumerate(labels):
        if distinct[row] and (label not in leader or chance.random() < 0.3):
            leader[label] = row
    representative = np.array([leader[label] if distinct[row] else -1 for row, label in enumerate(labels)])
    seen: list[int] = []
    expected = []
    for row, label in enumerate(labels):
        if distinct[row] and label not in seen:
            seen.append(label)
        expected.append(seen.index(label) if distinct[row] else -1)
    assert cluster_numbers(representative, distinct).tolist() == expected


def test_histogram_of_sizes() -> None:
    found = size_histogram(np.array([1, 1, 2, 3, 4, 7, 8, 1023, 1024]))
    counted = {(each["from"], each["to"]): (each["clusters"], each["sequences"]) for each in found}
    assert counted[1, 1] == (2, 2)
    assert counted[2, 3] == (2, 5)
    assert counted[4, 7] == (2, 11)
    assert counted[512, 1023] == (1, 1023)
    assert counted[1024, 2047] == (1, 1024)
    assert counted[16, 31] == (0, 0)


def test_rows_and_ids_of_the_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_groups(monkeypatch)
    chance = random.Random(4)
    texts = ["M" * number for number in range(1, 40)]
    records = [(f"{chance.getrandbits(40):x}", chance.choice(texts)) for _ in range(300)]
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", records))
    rows = run.rows("id, duplicate_of, sequence")
    ids = [name for name, _, _ in rows]
    expected = [row if duplicate is None else ids.index(duplicate) for row, (_, duplicate, _) in enumerate(rows)]
    assert canonical_rows(run.catalog).tolist() == expected
    assert len(set(expected)) < 40
    wanted = np.array(sorted(chance.sample(range(300), 50)))
    assert ids_of_rows(run.catalog, wanted).to_pylist() == [ids[row] for row in wanted]
    chosen = np.isin(np.arange(300), wanted)
    text = b"".join(fasta_of_rows(run.catalog, chosen)).decode()
    assert text == "".join(f">{row}\n{rows[row][2]}\n" for row in wanted)


@needs_mmseqs
@pytest.mark.parametrize("change", ["shorter", "longer", "other"])
def test_clusters_of_another_catalog(related: Filtered, tmp_path: Path, change: str) -> None:
    run_cluster(related)
    rows, alien = related.rows("id, sequence"), ("~", "MKVA" * 9)
    records = {"shorter": rows[:-1], "longer": [*rows, alien], "other": [alien, *rows[1:]]}[change]
    other = run_filter(tmp_path / "other", write_fasta(tmp_path / "other.fasta", records))
    with pytest.raises(UserError, match=r"its ids are not those of .*; rerun the cluster stage"):
        read_clusters(other.catalog, related.catalog.parent / "clusters.parquet")


@needs_mmseqs
def test_input_that_does_not_belong_together(related: Filtered) -> None:
    with pytest.raises(UserError, match="its ids are not those of"):
        read_clusters(related.catalog, related.rejects)
    related.summary.write_text(json.dumps(related.account | {"kept": 100}))
    with pytest.raises(UserError, match=r"its records are not those of .*; rerun the filter stage"):
        run_cluster(related)


# The program.


def fake_program(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A program `mmseqs` in place of the real one."""
    path = folder / "bin" / "mmseqs"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def test_a_missing_program_is_named_and_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"MMseqs2 is not installed .*conda install .*apt-get install mmseqs2"):
        Mmseqs()


def test_a_failing_run_gives_its_last_lines(related: Filtered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '[ "$1" = version ] && { echo 99; exit 0; }\nseq 5000\necho Cannot fit databases >&2\nexit 4'
    fake_program(tmp_path, monkeypatch, text)
    before = tree(related.catalog.parent)
    logs = tmp_path / "logs" / "cluster.log.mmseqs"
    with pytest.raises(UserError, match=r"mmseqs createdb failed \(exit code 4\): 4999 / 5000 / Cannot fit") as caught:
        run_cluster(related, program=Mmseqs(log=logs))
    assert str(logs) in str(caught.value)
    assert logs.read_text().splitlines()[0] == "1"
    logs.unlink()
    assert tree(related.catalog.parent) == before


@needs_mmseqs
@pytest.mark.parametrize("texts", [[f"{'ACDEFGHIKL'[n : n + 5]}" for n in range(5)], ["X" * n for n in range(20, 30)]])
def test_sequences_without_words_are_clusters_of_their_own(
    texts: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`mmseqs cluster` ends with an error there."""
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", [(f"p{n}", text) for n, text in enumerate(texts)]))
    rows = run_cluster(run, replace(PLAN, method="cluster"))
    assert len({number for _, _, number in rows}) == len(texts)
    assert "its clusters are taken" in caplog.text
    assert json.loads((tmp_path / "cluster.json").read_text())["module"] == "linclust"


@pytest.mark.slow
@needs_mmseqs
@pytest.mark.parametrize("unit", ["Q", "GAPKWTE"])
def test_sequences_that_only_repeat_are_clustered(unit: str, tmp_path: Path) -> None:
    records = [(f"r{length}", (unit * 60)[:length]) for length in range(20, 60)]
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", records))
    rows = run_cluster(run, replace(PLAN, method="cluster"))
    assert len({number for _, _, number in rows}) < 10


@pytest.mark.slow
@needs_mmseqs
@pytest.mark.parametrize(("method", "most"), [("linclust", 0.5), ("cluster", 0.1)])
def test_repetitive_sequences_are_clustered(method: str, most: float, tmp_path: Path) -> None:
    """Few are alone that Biopython aligns with others; more with linclust, which compares with one that has a word."""
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", repetitive_families(8)), min_length=20)
    rows = run_cluster(run, ClusterSettings(method, 0.7, 0.8, 0), mmseqs(threads=2))
    size = Counter(number for *_, number in rows)
    alone = {name for name, _, number in rows if size[number] == 1}
    sequences = {name: text for name, text in run.rows("id, sequence") if name in {row[0] for row in rows}}
    pairs = [pair for pair in align_all(sequences, sequences) if pair.query != pair.target and covers(pair, 0.8, 0)]
    near = {pair.query for pair in pairs if pair.identity >= 0.7}
    for kinds in (("ordinary", "short"), ("repeats", "few", "mixed", "letter")):
        mine = {name for name in near if name.split("_")[1] in kinds}
        assert len(alone & mine) <= most * len(mine), kinds


def test_a_version_that_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(tmp_path, monkeypatch, "echo no such library >&2; exit 127")
    with pytest.raises(UserError, match=r"`mmseqs version` fails \(no such library\); install it again"):
        _ = Mmseqs().version


@needs_mmseqs
def test_the_version_is_recorded_as_the_program_says_it(related: Filtered) -> None:
    run_cluster(related)
    said = subprocess.run(["mmseqs", "version"], capture_output=True, text=True, check=True).stdout.strip()
    summary = json.loads((related.catalog.parent / "cluster.json").read_text())
    assert summary["version"] == said
    plain = ["--mask", "0", "--comp-bias-corr", "0"]
    assert summary["arguments"] == ["--min-seq-id", "0.5", "-c", "0.8", "--cov-mode", "0", *plain]


@needs_mmseqs
def test_a_cluster_that_is_lost_is_no_result(
    related: Filtered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("mmseqs")
    fake_program(tmp_path, monkeypatch, f'{real} "$@" || exit\n[ "$1" != createtsv ] || sed -i 1d "$5"')
    with pytest.raises(RuntimeError, match="119 members of clusters for 120 sequences"):
        run_cluster(related)
    assert not (related.catalog.parent / "clusters.parquet").exists()


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("cat", 0)])
def test_exit_codes_come_through_and_input_is_empty(command: str, code: int, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as output:
        assert run_guarded(["/bin/sh", "-c", command], output.fileno()) == code


GUARDED = """
from embedome.splits.mmseqs import run_guarded
from embedome.common.process import exit_on_sigterm
exit_on_sigterm()
print("ready", flush=True)
run_guarded(["/bin/sh", "-c", f"echo $$ > {sys.argv[1]}; sleep 300 & echo $! >> {sys.argv[1]}; wait"], 2)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_children_die_with_their_parent(tmp_path: Path, number: int) -> None:
    path = tmp_path / "pids"
    with start_python(GUARDED, path) as process:
        deadline = time.monotonic() + 30
        while not path.exists() or len(path.read_text().split()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        process.wait(30)
    children = [Path("/proc") / pid for pid in path.read_text().split()]
    while any(is_alive(child) for child in children):
        assert time.monotonic() < deadline, "a child goes on"
        time.sleep(0.02)


def is_alive(process: Path) -> bool:
    try:
        return (process / "stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_last_lines() -> None:
    assert last_lines("a\n\n b \nc\n\nd\n") == "b / c / d"
    assert last_lines("\n") == "it printed nothing"


CLUSTER = """
from dataclasses import replace
from pathlib import Path
from embedome.splits.cluster import ClusterSettings, cluster_catalog
from embedome.splits.mmseqs import Mmseqs
source, out = map(Path, sys.argv[1:])
print("ready", flush=True)
cluster_catalog(
    source / "catalog", source / "filter.json", ClusterSettings("linclust", 0.5, 0.8, 0),
    clusters=out / "clusters.parquet", summary=out / "cluster.json", mmseqs=Mmseqs(2),
)
"""


@needs_mmseqs
@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes(related: Filtered, tmp_path: Path) -> None:
    duration_s = run_python(CLUSTER, tmp_path, tmp_path / "whole")
    kill_at_random(CLUSTER, (tmp_path, tmp_path / "killed"), duration_s, times=3)
    run_python(CLUSTER, tmp_path, tmp_path / "killed")
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
