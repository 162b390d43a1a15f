"""The whole line, run by Snakemake as a user runs it."""

import gzip
import json
import os
import re
import shutil

import duckdb
import numpy as np
import pytest
import yaml
from backports import zstd
from helpers.chromium import needs_chromium, open_page
from helpers.workflow_runs import ROOT, SMALL, changed, digests, run, run_and_kill, take_model


def test_a_second_run_has_nothing_to_do(demo):
    result = run(demo, SMALL)
    assert result.returncode == 0
    assert "Nothing to be done" in result.stdout


@pytest.mark.slow
def test_another_folder_and_one_core_give_the_same_bytes(demo, tmp_path):
    result = run(tmp_path / "elsewhere", SMALL, cores=1)
    assert result.returncode == 0, result.stdout
    expected = digests(demo)
    assert any("dataset" in name for name in expected)
    assert digests(tmp_path / "elsewhere") == expected


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bytes(demo, tmp_path):
    """Kill -9 of Snakemake and its jobs in every stage; what is run again afterwards ends like an undisturbed run."""
    folder = tmp_path / "killed"
    logs = ["filter.log", "shard.log", "embed/*/train/*.log", "embed/*/*/*.log", "merge_*.log"]
    for log in logs:
        assert run_and_kill(folder, SMALL, log, seconds=0.3), f"the run ended before {log} was there"
        if log != logs[-1]:
            # The log of a job that was killed stays; the next round must see a new one.
            shutil.rmtree(folder / "results" / "logs")
    result = run(folder, SMALL)
    assert result.returncode == 0, result.stdout
    assert digests(folder) == digests(demo)


def test_duckdb_alone_finds_every_kept_id_once_in_order_with_the_reference_vector(demo):
    """No embedome code: DuckDB reads the Parquet, the Hugging Face class gives the vectors, one sequence at a time."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    rows = duckdb.sql(f"""
        select d.id, c.sequence, d.embedding, d.split, d.filename
        from read_parquet('{demo}/results/dataset/esm1nv-demo/split=*/*.parquet', filename = true) d
        left join '{demo}/results/catalog/*.parquet' c using (id)
    """).fetchall()
    kept = duckdb.sql(f"select id from '{demo}/results/catalog/*.parquet'").fetchall()
    assert sorted(row[0] for row in rows) == sorted(name for (name,) in kept)
    assert len({row[0] for row in rows}) == len(rows) > 200

    directory = demo / "resources" / "models" / "esm1nv-demo"
    model = AutoModel.from_pretrained(directory, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for name, sequence, embedding, _, _ in rows:
        with torch.inference_mode():
            hidden = model(**tokenizer(sequence[:62], return_tensors="pt")).last_hidden_state[0, 1:-1]
        expected = hidden.mean(0).numpy()
        # Half a unit in the last place of a half float, and the engine's own 1e-5.
        np.testing.assert_allclose(np.array(embedding), expected, rtol=2**-11, atol=2e-5, err_msg=name)


def test_files_are_in_id_order_and_their_ranges_disjoint(demo):
    for split in ("val", "test", "train"):
        last = ""
        for path in sorted((demo / "results/dataset/esm1nv-demo" / f"split={split}").glob("part-*.parquet")):
            ids = [name for (name,) in duckdb.sql(f"select id from '{path}'").fetchall()]
            assert ids == sorted(ids)
            assert ids[0] > last
            last = ids[-1]


def test_the_ledger_agrees_with_counts_taken_from_the_files(demo):
    ledger = json.loads((demo / "results/ledger.json").read_text())
    with gzip.open(demo / "resources/demo/uniref50/uniref50.fasta.gz", "rt") as handle:
        read = sum(line.startswith(">") for line in handle)
    kept, duplicates = duckdb.sql(
        f"select count(*), count(duplicate_of) from '{demo}/results/catalog/*.parquet'"
    ).fetchall()[0]
    rejected = dict(
        duckdb.sql(f"select reason, count(*) from '{demo}/results/rejects.parquet' group by reason").fetchall()
    )
    states = dict(
        duckdb.sql(
            f"select state, count(*) from '{demo}/results/dataset/esm1nv-demo/split=*/*.parquet' group by state"
        ).fetchall()
    )
    assert ledger["read"] == read == 300
    assert ledger["rejected"] == rejected
    assert rejected
    assert ledger["kept"] == kept == read - sum(rejected.values())
    assert ledger["states"] == states
    assert states["duplicate"] == duplicates > 0
    assert states["truncated"] > 0
    splits = dict(duckdb.sql(f"select split, count(*) from '{demo}/results/splits.parquet' group by split").fetchall())
    assert {name: split["sequences"] for name, split in ledger["splits"].items()} == splits
    for name, split in ledger["splits"].items():
        for shard in split["shards"]:
            with gzip.open(demo / f"results/shards/{name}/{shard['shard']}.fasta.gz", "rt") as handle:
                assert sum(line.startswith(">") for line in handle) == shard["sequences"]


def test_no_temporary_files_stay(demo):
    assert not [path for path in demo.rglob("*.tmp") if ".snakemake" not in path.parts]


@pytest.mark.slow
def test_report_is_one_html_file_with_the_plots(demo):
    result = run(demo, SMALL, "--report", "report.html")
    assert result.returncode == 0, result.stdout
    text = (demo / "report.html").read_text()
    for name in ("lengths.svg", "pca.svg", "drift.svg", "ledger.html", "provenance.html"):
        assert f"results/report/esm1nv-demo/{name}" in text
        assert "results/runtimes/esm1nv-demo.html" in text
    assert "results/overview/esm1nv-demo.html" in text
    # One can be sent by mail, or nearly.
    assert len(text) + (demo / "results/report/esm1nv-demo/map.html").stat().st_size < 15e6

    table = (demo / "results/runtimes/esm1nv-demo.tsv").read_text().splitlines()
    rules = [line.split("\t")[0] for line in table[1:]]
    assert {"filter", "split", "shard", "embed", "merge", "ledger", "analyse", "report"} <= set(rules)
    assert dict(zip(rules, [line.split("\t")[1] for line in table[1:]], strict=True))["embed"] == "4"


@pytest.mark.slow
@needs_chromium
def test_the_report_opens_on_the_numbers_with_a_warning_of_random_weights(demo, tmp_path):
    assert run(demo, SMALL, "--report", "first.html").returncode == 0
    with open_page((demo / "first.html").as_uri(), tmp_path / "profile") as page:
        page.wait_for("document.querySelectorAll('.overview dl > div').length == 10")
        pairs = "names => names.map(name => [name.innerText, name.nextElementSibling.innerText])"
        shown = page.run(f"({pairs})([...document.querySelectorAll('.overview dt')])")
        bottom = "element => element.getBoundingClientRect().bottom"
        bottoms = page.run(f"[...document.querySelectorAll('.overview dl > div')].map({bottom})")
        assert max(bottoms) < page.run("innerHeight")
        assert "random" in page.run("document.querySelector('.overview [role=alert]').innerText")
        # Below the numbers, where it does not hide them.
        assert page.run("document.querySelector('.overview').getBoundingClientRect().top") >= 0
        assert [url for url in page.requests[1:] if not url.startswith("data:")] == []
    files = f"'{demo}/results/dataset/esm1nv-demo/split=*/*.parquet'"
    [(rows, distinct)] = duckdb.sql(f"select count(*), count(distinct digest) from {files}").fetchall()
    states = dict(duckdb.sql(f"select state, count(*) from {files} group by state").fetchall())
    [(rejected,)] = duckdb.sql(f"select count(*) from '{demo}/results/rejects.parquet'").fetchall()
    numbers = {name: value.replace(",", "") for name, value in shown}
    expected = {"Sequences": rows, "Kept": 300 - rejected, "Rejected": rejected, "Duplicates": rows - distinct}
    expected |= {"Truncated": states["truncated"], "Dimension": 32}
    assert {name: int(numbers[name]) for name in expected} == expected
    assert numbers["Leakage"] == "not measured"


def test_the_analysis_counts_what_the_ledger_counts(demo):
    found = json.loads((demo / "results/analysis/esm1nv-demo/statistics.json").read_text())
    ledger = json.loads((demo / "results/ledger.json").read_text())
    assert sum(split["sequences"] for split in found["kept"].values()) == ledger["kept"]
    assert found["rows"] == sum(ledger["states"].values())
    assert found["sample"]["sequences"] == found["rows"] - ledger["states"]["duplicate"]
    same = found["neighbours"]["same_family"]
    assert same["sequences"] == found["sample"]["sequences"]
    assert same["same"] > 3 * same["chance"]


@pytest.mark.slow
def test_own_files_plain_gzip_and_zstandard_with_any_header(demo, tmp_path):
    (tmp_path / "a.fasta").write_text(
        ">UniRef50_A0A000 Ras=like n=3 Tax=Homo sapiens TaxID=9606 RepID=A_HUMAN\r\nMKTAYIAKQRQISFVKSHFSRQ\r\n"
        ">id/with'odd\"signs.. free text\nmktayiakqrqisfvkshfsrqle*\n"
        ">gapped\nMKTAYIAKQR-ISFVKSHFSRQLE\n"
    )
    with gzip.open(tmp_path / "b.fa.gz", "wt") as handle:
        handle.write(
            ">sp|P01308|INS_HUMAN Insulin OS=Homo sapiens OX=9606 GN=INS PE=1 SV=1\n" + "MALWMRLLPLLALLALWGPD\n" * 5
        )
    with zstd.open(tmp_path / "c.faa.zst", "wt") as handle:
        handle.write(">short\nMK\n>copy\nMKTAYIAKQRQISFVKSHFSRQ\n")
    sources = {"kind": "fasta", "fasta": ["a.fasta", "b.fa.gz", "c.faa.zst"]}
    config = changed(SMALL, source=sources, split={"val": 1, "test": 0})
    result = run(take_model(demo, tmp_path), config, "--until", "ledger")
    assert result.returncode == 0, result.stdout
    files = f"{tmp_path}/results/dataset/esm1nv-demo/split=*/*.parquet"
    rows = duckdb.sql(f"select id, state, taxid, n_members, n_residues_used from '{files}' order by id").fetchall()
    assert rows == [
        ("UniRef50_A0A000", "embedded", 9606, 3, 22),
        ("copy", "duplicate", None, None, 22),
        ("id/with'odd\"signs..", "embedded", None, None, 24),
        ("sp|P01308|INS_HUMAN", "truncated", 9606, None, 62),
    ]
    ledger = json.loads((tmp_path / "results/ledger.json").read_text())
    assert ledger["rejected"] == {"invalid-residue": 1, "too-short": 1}
    assert ledger["read"] == 6
    # Where there are results already, too: Snakemake would pass them on.
    other = changed(config, source={"fasta": ["a.fasta", "B.fa.gz", "c.faa.zst"]})
    assert "source.fasta: B.fa.gz: no such file" in run(tmp_path, other, "--dry-run").stdout


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"filter": {"min_lenght": 3}}, "unknown key 'filter.min_lenght'; did you mean 'min_length'?"),
        ({"embde": {}}, "unknown key 'embde'; did you mean 'embed'?"),
        ({"filter": {"min_length": "ten"}}, "filter.min_length is 'ten'; expected integer, at least 1"),
        ({"split": {"method": "random"}}, "split.method is 'random'; expected one of hash, cluster, bionemo"),
        ({"filter": {"max_length": 5}}, "filter.max_length is 5; expected at least filter.min_length, 20"),
        ({"source": {"kind": "fasta"}}, "source.fasta is []; expected at least one path"),
        ({"model": {"directory": "nowhere", "untrained": None}}, "nowhere: no such model directory"),
        ({"source": {"kind": "fasta", "fasta": ["a.fa"]}}, "source.fasta: a.fa: no such file"),
        ({"filter": {"taxonomy": "nodes.dmp"}}, "filter.taxonomy: nodes.dmp: no such file"),
        ({"annotate": {"labels": "go.tsv"}}, "annotate.labels: go.tsv: no such file"),
        ({"reuse": {"dataset": "earlier"}}, "reuse.dataset: earlier/_manifest.json: no such file"),
        ({"filter": {"include_names": ["(("]}}, "filter.include_names has '(('; expected a regular expression"),
        ({"split": {"val": 0.6, "test": 0.7}}, "split.val and split.test are 0.6 and 0.7; expected fractions"),
    ],
)
@pytest.mark.slow
def test_a_wrong_configuration_is_one_line_and_no_traceback(tmp_path, sections, message):
    result = run(tmp_path, changed(SMALL, **sections), "--dry-run")
    assert result.returncode in (1, 2)
    assert message in result.stdout
    assert "Traceback" not in result.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"MKTAYIAK\n", "bad.fasta: the file begins with b'MKTAYIAK'"),
        (b">a\nMKTAYIAKQRQISFVKSHFSRQ\n>a\nMKTAYIAKQRQISFVKSHFSRA\n", "two records have the id 'a'"),
    ],
)
def test_bad_input_is_one_line_that_names_the_file(demo, tmp_path, content, message):
    (tmp_path / "bad.fasta").write_bytes(content)
    config = changed(SMALL, source={"kind": "fasta", "fasta": ["bad.fasta"]})
    result = run(take_model(demo, tmp_path), config)
    assert result.returncode == 1
    assert message in result.stdout
    assert "Traceback" not in result.stdout


@pytest.mark.slow
def test_changed_settings_embed_again_and_unchanged_ones_do_not(demo, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(demo, folder)
    untouched = run(folder, SMALL, "--dry-run", "--rerun-triggers", "mtime", "params", "input")
    assert "Nothing to be done" in untouched.stdout, untouched.stdout
    result = run(folder, changed(SMALL, embed={"long_sequences": "window", "overlap": 10}), "--until", "ledger")
    assert result.returncode == 0, result.stdout
    ledger = json.loads((folder / "results/ledger.json").read_text())
    assert ledger["states"]["windowed"] > 0
    assert "truncated" not in ledger["states"]


def planned(folder, config) -> set[str]:
    """The rules that a run would run."""
    result = run(folder, config, "--dry-run", "--quiet", "rules")
    assert result.returncode == 0, result.stdout
    lines = re.findall(r"^(\w+) +\d+$", result.stdout, re.MULTILINE)
    return {*lines} - {"total"}


@pytest.mark.parametrize(
    ("sections", "rules"),
    [
        ({"cluster": {"as": "filter"}}, {"cluster", "split", "shard", "embed"}),
        ({"leakage": {"drop_above": 0.3}}, {"split", "drop_leaks", "shard", "embed"}),
        ({"split": {"method": "cluster"}}, {"cluster", "split", "shard", "embed"}),
    ],
    ids=["filter", "leaks", "clusters"],
)
@pytest.mark.slow
def test_what_a_key_switches_on_is_run_where_there_are_results_already(demo, tmp_path, sections, rules):
    shutil.copytree(demo, tmp_path / "copy")
    assert rules <= planned(tmp_path / "copy", changed(SMALL, **sections))


@pytest.mark.parametrize(
    "sections", [{"dask": {"memory_mb": 9999}}, {"source": {"mirrors": ["https://elsewhere/uniref50"]}}], ids=str
)
@pytest.mark.slow
def test_where_and_by_what_it_is_worked_on_is_no_reason_to_run_again(demo, tmp_path, sections):
    shutil.copytree(demo, tmp_path / "copy")
    assert planned(tmp_path / "copy", changed(SMALL, **sections)) == set()


@pytest.mark.slow
def test_a_shard_more_of_val_leaves_the_parts_of_train(demo, tmp_path):
    shutil.copytree(demo, tmp_path / "copy")
    result = run(tmp_path / "copy", changed(SMALL, shard={"val": 2}), "--until", "ledger")
    assert result.returncode == 0, result.stdout
    logs = tmp_path / "copy/results/logs/embed/esm1nv-demo"
    assert "is written already" in (logs / "train/00000.log").read_text()
    assert "is written already" not in (logs / "val/00001.log").read_text()


@pytest.mark.slow
def test_weights_that_are_not_embedome_s_are_never_replaced(tmp_path):
    directory = tmp_path / SMALL["model"]["directory"]
    directory.mkdir(parents=True)
    (directory / "pytorch_model.bin").write_bytes(b"precious")
    for config in ({}, {"model_type": "esm"}):
        (directory / "config.json").write_text(json.dumps(config))
        result = run(tmp_path, SMALL, "--forceall")
        assert result.returncode != 0
        assert "holds 'pytorch_model.bin', which embedome did not make; set model.untrained to null" in result.stdout
        assert (directory / "pytorch_model.bin").read_bytes() == b"precious"


@pytest.mark.parametrize("names", [["esm2/model.safetensors"], ["README.md"], ["tokenizer_config.json"], [".git/HEAD"]])
@pytest.mark.slow
def test_a_folder_that_model_directory_names_is_never_replaced(tmp_path, names):
    directory = tmp_path / "models"
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"precious")
    result = run(tmp_path, changed(SMALL, model={"directory": "models"}), "--until", "make_model")
    assert result.returncode != 0
    assert "which embedome did not make" in result.stdout or "and embedome did not make it" in result.stdout
    assert {name: (directory / name).read_bytes() for name in names} == dict.fromkeys(names, b"precious")
    assert "Traceback" not in result.stdout


@pytest.mark.slow
def test_what_lies_in_the_catalog_s_folder_is_never_removed(demo, tmp_path):
    shutil.copytree(demo, tmp_path / "copy")
    notes = tmp_path / "copy/results/catalog/notes.txt"
    notes.write_text("precious")
    result = run(tmp_path / "copy", SMALL, "--forcerun", "filter", "--until", "filter")
    assert result.returncode != 0
    assert "results/catalog: holds 'notes.txt', which embedome did not make" in result.stdout
    assert notes.read_text() == "precious"


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.slow
def test_presets_build_a_plan(demo, tmp_path, preset):
    """With the model's directory and the files of tasks in place, a preset is a complete configuration."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text()) | yaml.safe_load(preset.read_text())
    model, tasks = config["model"], config["evaluate"]["tasks"]
    needed = model["pretrain"]["init"] if model["pretrain"] else model["directory"]
    if needed:
        shutil.copytree(demo / "resources/models/esm1nv-demo", tmp_path / needed)
    for path in (tmp_path / name for task in tasks for name in task["data"]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    result = run(tmp_path, None, "--configfile", str(preset), "--dry-run", "--quiet", "rules")
    assert result.returncode == 0, result.stdout
    assert "embed" in result.stdout
    assert ("pretrain" in result.stdout) == bool(model["pretrain"])
    assert ("evaluate_table" in result.stdout) == bool(tasks)


@pytest.mark.slow
def test_slurm_profile_is_found_by_its_name(tmp_path):
    result = run(tmp_path, SMALL, "--profile", "slurm", "--dry-run", "--quiet", "rules")
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_jobs_use_the_library_of_the_rules_whatever_else_is_installed(tmp_path, monkeypatch):
    other = tmp_path / "other" / "embedome"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise RuntimeError('another version')")
    monkeypatch.setenv("PYTHONPATH", str(other.parent))
    result = run(tmp_path / "run", SMALL, "--until", "make_demo")
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_an_array_that_would_wait_for_ever_is_refused_before_anything_is_queued(tmp_path, monkeypatch):
    """The programs of Slurm are none: sbatch notes that it was called."""
    programs = {"scontrol": "echo MaxArraySize = 1001", "sbatch": f"touch {tmp_path}/called"}
    for name in ("sacct", "sacctmgr", "sinfo", "squeue", "scancel", *programs):
        (tmp_path / name).write_text(f"#!/bin/sh\n{programs.get(name, 'exit 0')}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    result = run(tmp_path / "run", SMALL, "--profile", "slurm", "--jobs", "2")
    assert result.returncode
    assert (
        "slurm-array-jobs: embed has 4 jobs, which are submitted 4 at once, but jobs and max-jobs-per" in result.stdout
    )
    assert "Traceback" not in result.stdout
    assert not (tmp_path / "called").exists()
    assert not (tmp_path / "run" / "resources").exists()
