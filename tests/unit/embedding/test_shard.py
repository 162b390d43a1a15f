"""The shard stage: what the shards hold, read back with Biopython, and how evenly they are cut."""

import gzip
import hashlib
import io
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import duckdb
import numpy as np
import pytest
from Bio.SeqIO.FastaIO import SimpleFastaParser
from embedome.common.errors import UserError
from embedome.embedding.cost import CostModel
from embedome.embedding.shard import equal_cost_shards, write_shards
from embedome.sequences.headers import parse_description
from embedome.splits.split import split_catalog
from embedome.splits.split_methods import SplitSettings
from helpers.filtered import Filtered, run_filter, small_groups, tree, write_fasta
from helpers.processes import kill_at_random, run_python
from hypothesis import given
from hypothesis import strategies as st

SPLITS = ("val", "test", "train")
COST = CostModel(linear=1.5e-5, quadratic=2.5e-8, longest=100)
N_SHARDS = {"val": 1, "test": 2, "train": 5}


def proteins(count: int) -> list[tuple[str, str]]:
    """Records with ids in no order; every eighth has the sequence of the one before it."""
    chance = random.Random(2)
    records: list[tuple[str, str]] = []
    for number in range(count):
        sequence = "".join(chance.choices("ACDEFGHIKLMNPQRSTVWY", k=chance.randint(1, 200)))
        if number % 8 == 7:
            sequence = records[-1][1]
        name = f"UniRef50_{chance.getrandbits(40):010X}"
        records.append(
            (f"{name} Protein of n=3 n=1 Tax=Taxon (strain 1) TaxID={number + 1} RepID=X_{number}", sequence)
        )
    return records


def run_split(run: Filtered, val: int = 20, test: int = 60) -> tuple[Path, Path]:
    """Split a catalog; return the two files."""
    files = run.catalog.parent / "splits.parquet", run.catalog.parent / "split.json"
    split_catalog(run.catalog, run.summary, SplitSettings("hash", 0, val, test), splits=files[0], summary=files[1])
    return files


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Filtered:
    small_groups(monkeypatch)
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", proteins(500)))
    run_split(run)
    return run


def run_shard(run: Filtered, n_shards: dict[str, int] = N_SHARDS, cost: CostModel = COST) -> Path:
    base = run.catalog.parent
    folder = base / "shards"
    arguments = (run.catalog, base / "splits.parquet", base / "split.json", n_shards, cost)
    result = write_shards(*arguments, folder=folder, summary=folder / "shards.json")
    assert json.loads((folder / "shards.json").read_text()) == result
    return folder


def read_shards(folder: Path, split: str) -> list[list[tuple[str, str]]]:
    """Title and sequence of each record of each shard of a split."""
    paths = sorted((folder / split).iterdir())
    assert [path.name for path in paths] == [f"{number:05d}.fasta.gz" for number in range(len(paths))]
    return [list(SimpleFastaParser(io.StringIO(gzip.decompress(path.read_bytes()).decode()))) for path in paths]


def canonical_rows(run: Filtered, split: str) -> list[tuple[str, str]]:
    """Id and sequence of a split's distinct sequences, in id order."""
    return duckdb.sql(f"""
        SELECT id, sequence FROM read_parquet('{run.catalog}/*.parquet') AS catalog
        JOIN read_parquet('{run.catalog.parent}/splits.parquet') AS splits USING (id)
        WHERE split = '{split}' AND duplicate_of IS NULL ORDER BY id
    """).fetchall()


def test_shards_hold_each_distinct_sequence_of_their_split_once_in_id_order(catalog: Filtered) -> None:
    folder = run_shard(catalog)
    for split in SPLITS:
        shards = read_shards(folder, split)
        assert len(shards) == N_SHARDS[split]
        # Joined, they are the split in id order: so ranges are disjoint, nothing is lost, nothing is there twice.
        records = [(title.split()[0], sequence) for shard in shards for title, sequence in shard]
        assert records == canonical_rows(catalog, split)
        assert records
        assert all(shards)
    assert catalog.account["duplicates"] > 50


def test_titles_are_those_of_the_input(catalog: Filtered) -> None:
    titles = {title.split()[0]: title for title, _ in proteins(500)}
    seen = 0
    for split in SPLITS:
        for shard in read_shards(run_shard(catalog), split):
            for title, _ in shard:
                name, description = title.split(" ", 1)
                assert title == titles[name]
                assert parse_description(description).taxid == int(re.search(r"TaxID=(\d+)", titles[name])[1])
                seen += 1
    assert seen == catalog.account["kept"] - catalog.account["duplicates"]


def test_odd_ids_and_titles_are_kept(tmp_path: Path) -> None:
    titles = ["../a/b", "'x\" y", "β 名前", ">g >h", "sp|P1|X_Y Café OS=Homo sapiens OX=9606", "z two  spaces"]
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", [(t, "M" * (n + 1)) for n, t in enumerate(titles)]))
    run_split(run, 0, 0)
    records = [record for shard in read_shards(run_shard(run), "train") for record in shard]
    assert sorted(records) == sorted((title, "M" * (n + 1)) for n, title in enumerate(titles))
    assert {path.parent for path in tmp_path.rglob("*.fasta.gz")} == {tmp_path / "shards" / split for split in SPLITS}


def test_summary_counts(catalog: Filtered) -> None:
    folder = run_shard(catalog)
    result = json.loads((folder / "shards.json").read_text())
    assert result["cost"] == {"linear": 1.5e-5, "quadratic": 2.5e-8, "longest": 100}
    for split in SPLITS:
        for number, (shard, records) in enumerate(
            zip(result["splits"][split], read_shards(folder, split), strict=True)
        ):
            ids = [title.split()[0] for title, _ in records]
            lengths = [len(sequence) for _, sequence in records]
            content = "".join(f"{name}\n{sequence}\n" for name, (_, sequence) in zip(ids, records, strict=True))
            seconds = shard.pop("predicted_s")
            assert shard == {
                "shard": f"{number:05d}",
                "sequences": len(records),
                "residues": sum(lengths),
                "first_id": ids[0],
                "last_id": ids[-1],
                "content_sha256": hashlib.sha256(content.encode()).hexdigest(),
            }
            expected = sum(1.5e-5 * min(length, 100) + 2.5e-8 * min(length, 100) ** 2 for length in lengths)
            assert seconds == pytest.approx(expected, rel=1e-6)


def test_shards_cost_the_same(catalog: Filtered) -> None:
    train = json.loads((run_shard(catalog) / "shards.json").read_text())["splits"]["train"]
    seconds = [shard["predicted_s"] for shard in train]
    largest = 1.5e-5 * 100 + 2.5e-8 * 100**2
    assert max(seconds) - sum(seconds) / 5 <= largest
    assert sum(seconds) / 5 - min(seconds) <= largest
    assert len({shard["residues"] for shard in train}) > 1  # it is cost that is even, not residues


def test_more_shards_than_sequences(tmp_path: Path) -> None:
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", [("a", "MK"), ("b", "MKV"), ("c", "MK")]))
    run_split(run, 0, 0)
    folder = run_shard(run, {"val": 2, "test": 1, "train": 7})
    shards = read_shards(folder, "train")
    assert [record for shard in shards for record in shard] == [("a", "MK"), ("b", "MKV")]
    assert [len(shards), shards.count([])] == [7, 5]
    assert read_shards(folder, "val") == [[], []]
    result = json.loads((folder / "shards.json").read_text())["splits"]
    empty = {"sequences": 0, "residues": 0, "predicted_s": 0.0, "first_id": None, "last_id": None}
    empty["content_sha256"] = hashlib.sha256(b"").hexdigest()
    assert result["val"] == [{"shard": "00000"} | empty, {"shard": "00001"} | empty]
    for path in (folder / "val").iterdir():
        subprocess.run(["gzip", "--test", path], check=True)


def test_the_same_bytes_again_whatever_the_groups(
    catalog: Filtered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tree(run_shard(catalog))
    assert len(first) == 9
    # RFC 1952: neither a name nor a time in the header.
    assert {data[3:8] for name, data in first.items() if name.endswith(".gz")} == {bytes(5)}
    assert tree(run_shard(catalog)) == first
    monkeypatch.undo()
    run = run_filter(tmp_path / "large", tmp_path / "x.fasta")
    run_split(run)
    again = tree(run_shard(run))
    # But for the digest of the catalog, whose files are others.
    summaries = [json.loads(each.pop("shards.json")) for each in (first, again)]
    assert summaries[0].pop("catalog_sha256") != summaries[1].pop("catalog_sha256")
    assert (summaries[0], first) == (summaries[1], again)


def test_shards_are_the_input_again(catalog: Filtered, tmp_path: Path) -> None:
    """A catalog of the shards is the catalog without its duplicates."""
    again = run_filter(tmp_path / "again", *run_shard(catalog).rglob("*.fasta.gz"))
    columns = "id, digest, length, n_members, taxid, taxon, name, representative, description, sequence"
    assert again.rows(columns) == [row[:-1] for row in catalog.rows(f"{columns}, duplicate_of") if row[-1] is None]


def test_splits_of_another_catalog(catalog: Filtered, tmp_path: Path) -> None:
    splits = tmp_path / "splits.parquet"
    other = run_filter(tmp_path / "other", write_fasta(tmp_path / "other.fasta", [*proteins(500)[1:], ("~", "MK")]))
    for wrong in (run_split(other)[0], next(other.catalog.iterdir()), other.rejects):
        shutil.copy(wrong, splits)
        with pytest.raises(UserError, match=r"its ids are not those of .*; rerun the split stage") as caught:
            run_shard(catalog)
        assert str(splits) in str(caught.value)
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(("held", "listed"), [(64, 80), (80, 64), (64, 65)])
def test_splits_longer_or_shorter_than_the_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int, listed: int
) -> None:
    small_groups(monkeypatch)  # of 16 rows: the shorter file ends where a group ends
    records = [(f"{number:03d}", "M" * (number + 1)) for number in range(max(held, listed))]
    run = run_filter(tmp_path / "held", write_fasta(tmp_path / "held.fasta", records[:held]))
    run_split(run, 10, 10)
    longer = run_filter(tmp_path / "listed", write_fasta(tmp_path / "listed.fasta", records[:listed]))
    shutil.copy(run_split(longer, 10, 10)[0], run.catalog.parent / "splits.parquet")
    with pytest.raises(UserError, match="its ids are not those of"):
        run_shard(run)


def test_missing_and_broken_input(catalog: Filtered, tmp_path: Path) -> None:
    account = json.loads((tmp_path / "split.json").read_text())
    account["splits"]["test"]["sequences"] += 1
    (tmp_path / "split.json").write_text(json.dumps(account))
    with pytest.raises(UserError, match=r"split test: .* rerun the split stage"):
        run_shard(catalog)
    assert not (tmp_path / "shards" / "shards.json").exists()
    (tmp_path / "splits.parquet").write_bytes(b"PAR1 and more")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        run_shard(catalog)
    (tmp_path / "splits.parquet").unlink()
    with pytest.raises(UserError, match="no such file"):
        run_shard(catalog)


# The cuts.


@given(costs=st.lists(st.integers(0, 10**12) | st.integers(0, 3), max_size=60), n_shards=st.integers(1, 12))
def test_cuts_are_in_order_and_even(costs: list[int], n_shards: int) -> None:
    owners = equal_cost_shards(np.array(costs, np.int64), n_shards).tolist()
    assert len(owners) == len(costs)
    assert owners == sorted(owners)
    assert all(0 <= owner < n_shards for owner in owners)
    loads = [
        sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == shard) for shard in range(n_shards)
    ]
    # Over the mean by the largest cost at most, in whole numbers.
    assert n_shards * max(loads) - sum(costs) <= n_shards * max(costs, default=0)


@given(n=st.integers(0, 500), n_shards=st.integers(1, 20))
def test_equal_costs_are_cut_into_equal_numbers(n: int, n_shards: int) -> None:
    held = np.bincount(equal_cost_shards(np.full(n, 10**9), n_shards), minlength=n_shards)
    assert held.max() - held.min() <= 1
    assert held.sum() == n


def test_costs_that_overflow_are_said(catalog: Filtered) -> None:
    with pytest.raises(UserError, match=r"days are predicted .* lower cost\.linear and cost\.quadratic"):
        run_shard(catalog, cost=CostModel(linear=1000.0, quadratic=0.0))
    with pytest.raises(UserError, match=r"lower cost\.linear and cost\.quadratic"):
        run_shard(catalog, cost=CostModel(linear=1.0, quadratic=1e15))
    # In any smaller unit the cuts are the same.
    cuts = [
        [
            shard["last_id"]
            for shard in json.loads((run_shard(catalog, cost=cost) / "shards.json").read_text())["splits"]["train"]
        ]
        for cost in (CostModel(1.0, 0.0), CostModel(1e-3, 0.0))
    ]
    assert cuts[0] == cuts[1]


@pytest.mark.parametrize("longest", [None, 400])
def test_predicted_cost(longest: int | None) -> None:
    lengths = [1, 20, 399, 400, 401, 40_000]
    lengths_of = np.array(lengths, np.int32)
    costs = CostModel(linear=2e-5, quadratic=3e-8, longest=longest).picoseconds(lengths_of)
    # However small they are, none is nothing: sequences that cost nothing would all be in one shard.
    assert (CostModel(linear=1e-15, quadratic=0).picoseconds(lengths_of) >= 1).all()
    used = [min(length, longest or length) for length in lengths]
    assert costs.dtype == np.int64
    assert costs.tolist() == pytest.approx([2e7 * n + 3e4 * n * n for n in used], rel=1e-9)


# Killed.

SHARD = """
from pathlib import Path
import gzip
import embedome.embedding.shard as stage
from embedome.embedding.cost import CostModel
catalog, splits, summary, out = map(Path, sys.argv[1:])
print("ready", flush=True)
stage.write_shards(catalog, splits, summary, {"val": 2, "test": 3, "train": 10}, CostModel(1e-5, 1e-8),
                   folder=out, summary=out / "shards.json")
"""


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", proteins(4000)))
    inputs = (run.catalog, *run_split(run))
    duration_s = run_python(SHARD, *inputs, tmp_path / "whole")
    kill_at_random(SHARD, (*inputs, tmp_path / "killed"), duration_s)
    run_python(SHARD, *inputs, tmp_path / "killed")
    assert len(tree(tmp_path / "whole")) == 16
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
