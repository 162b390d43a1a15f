"""Cluster splits, leakage and the redundancy filter, run by Snakemake as a user runs them."""

import json
import shutil

import duckdb
import pytest
from helpers.workflow_runs import SMALL, changed, digests, run, run_and_kill, take_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("mmseqs"), reason="MMseqs2 is not installed"),
]

CLUSTERED = changed(
    SMALL, split={"method": "cluster", "val": 0.1, "test": 0.1}, leakage={"measure": True, "drop_above": 0.5}
)
FILES = ("clusters.parquet", "leakage.parquet", "rejects_leak.parquet")


@pytest.fixture(scope="module")
def clustered(demo, tmp_path_factory):
    folder = take_model(demo, tmp_path_factory.mktemp("clustered") / "run")
    result = run(folder, CLUSTERED)
    assert result.returncode == 0, result.stdout
    return folder


def outcome(folder):
    """Every result's digest, and the bytes of what these stages write."""
    return digests(folder) | {name: (folder / "results" / name).read_bytes() for name in FILES}


def test_the_ledger_closes_over_what_leaked(clustered):
    ledger = json.loads((clustered / "results/ledger.json").read_text())
    rejects = dict(
        duckdb.sql(
            f"select reason, count(*) from read_parquet('{clustered}/results/rejects*.parquet') group by reason"
        ).fetchall()
    )
    assert rejects == ledger["rejected"]
    assert rejects["leak"] > 0
    assert ledger["read"] == 300 == ledger["kept"] + sum(rejects.values())
    rows = duckdb.sql(f"select id from '{clustered}/results/dataset/esm1nv-demo/split=*/*.parquet'").fetchall()
    leaked = duckdb.sql(f"select id from '{clustered}/results/rejects_leak.parquet'").fetchall()
    catalog = duckdb.sql(f"select id from '{clustered}/results/catalog/*.parquet'").fetchall()
    assert sorted(rows + leaked) == sorted(catalog)


def test_nothing_is_left_that_leaks(clustered):
    account = json.loads((clustered / "results/summaries/leakage.json").read_text())
    for split in account["splits"].values():
        assert split["sequences"] > 20
        assert all(each["sequences"] == 0 for each in split["thresholds"] if each["identity"] >= 0.5)
    assert (clustered / "results/logs/leakage.log.mmseqs").stat().st_size > 0
    page = (clustered / "results/report/esm1nv-demo/leakage.html").read_text()
    assert all(f">{split['sequences']}<" in page for split in account["splits"].values())


def test_no_cluster_is_in_two_splits(clustered):
    apart = duckdb.sql(f"""
        select cluster from '{clustered}/results/clusters.parquet' join '{clustered}/results/splits.parquet' using (id)
        where split <> 'rejected' group by cluster having count(distinct split) > 1
    """).fetchall()
    assert apart == []


@pytest.mark.slow
def test_killed_in_these_stages_and_run_on_one_core_it_ends_in_the_same_bytes(clustered, tmp_path):
    folder = tmp_path / "killed"
    for log in ("cluster.log", "drop_leaks.log"):
        assert run_and_kill(folder, CLUSTERED, log, seconds=0.6), f"the run ended before {log} was there"
        shutil.rmtree(folder / "results" / "logs")
    result = run(folder, CLUSTERED, cores=1)
    assert result.returncode == 0, result.stdout
    assert outcome(folder) == outcome(clustered)
    assert not [path for path in folder.rglob("*.tmp") if ".snakemake" not in path.parts]


@pytest.mark.slow
def test_one_of_each_cluster_is_kept(tmp_path):
    config = changed(SMALL, cluster={"as": "filter", "identity": 0.5})
    result = run(tmp_path, config)
    assert result.returncode == 0, result.stdout
    ledger = json.loads((tmp_path / "results/ledger.json").read_text())
    clusters = json.loads((tmp_path / "results/summaries/cluster.json").read_text())
    assert ledger["rejected"]["redundant"] >= clusters["sequences"] - clusters["clusters"] > 0
    distinct = sum(split["sequences"] - split["duplicates"] for split in ledger["splits"].values())
    assert distinct == clusters["clusters"]
    assert ledger["read"] == ledger["kept"] + sum(ledger["rejected"].values())
