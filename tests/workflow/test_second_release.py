"""A second release, run by Snakemake: what an earlier data set has is not embedded again."""

import json
import shutil

import duckdb
import pytest
from helpers.workflow_runs import SMALL, changed, run, take_model


@pytest.fixture(scope="module")
def earlier(demo, tmp_path_factory):
    """The demo's data set, moved away from it."""
    return (demo / "results/dataset/esm1nv-demo").rename(tmp_path_factory.mktemp("earlier") / "data set")


@pytest.mark.slow
def test_only_what_is_new_is_embedded(demo, earlier, tmp_path):
    # What was too short in the earlier release is in this one.
    config = changed(SMALL, filter={"min_length": 5}, reuse={"dataset": str(earlier)})
    result = run(take_model(demo, tmp_path), config, "--until", "ledger")
    assert result.returncode == 0, result.stdout
    known, rows = (
        duckdb.sql(f"select digest, n_residues_used, embedding from '{folder}/split=*/*.parquet'").fetchall()
        for folder in (earlier, tmp_path / "results/dataset/esm1nv-demo")
    )
    ledger = json.loads((tmp_path / "results/ledger.json").read_text())
    assert len(rows) == sum(ledger["states"].values()) > len(known) > 100
    assert sum(ledger["reused"].values()) == len({digest for digest, *_ in known})
    shards = json.loads((tmp_path / "results/shards/shards.json").read_text())["splits"]
    new = {digest for digest, *_ in rows} - {digest for digest, *_ in known}
    assert sum(shard["sequences"] for split in shards.values() for shard in split) == len(new) > 0
    vectors = {digest: (used, vector) for digest, used, vector in rows}
    assert all(vectors[digest] == (used, vector) for digest, used, vector in known)


@pytest.mark.slow
def test_the_run_s_own_data_set_is_refused(earlier, tmp_path):
    shutil.copytree(earlier, tmp_path / "results/dataset/esm1nv-demo")
    result = run(tmp_path, changed(SMALL, reuse={"dataset": "results/dataset/esm1nv-demo"}), "--dry-run")
    assert result.returncode in (1, 2)
    assert "reuse.dataset is 'results/dataset/esm1nv-demo', which this run writes" in result.stdout
