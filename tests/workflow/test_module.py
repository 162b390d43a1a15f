"""The workflow within another one: as Snakemake's module, in the form that snakedeploy writes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers.workflow_runs import ROOT, SMALL, changed

# Only what differs, as a caller writes it; config.yaml has the rest.
CALLER = """\
configfile: "my.yaml"
module embedome:
    snakefile: "{snakefile}"
    config: config{section}{prefix}
use rule * from embedome as emb_*
rule mine:
    input: "{folder}results/runtimes/esm1nv-demo.tsv"
    output: "done.txt"
    benchmark: "results/benchmarks/mine.tsv"
    shell: "cp {{input}} {{output}}"
"""


def write_caller(folder: Path, config: dict, *, prefix: str = "", section: str = "", snakefile: object = None) -> None:
    """Write a workflow that uses this one, and its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    below = f'\n    prefix: "{prefix}"' if prefix else ""
    text = CALLER.format(
        snakefile=snakefile or ROOT / "Snakefile",
        section=f'["{section}"]' if section else "",
        prefix=below,
        folder=f"{prefix}/" if prefix else "",
    )
    (folder / "Snakefile").write_text(text)
    (folder / "my.yaml").write_text(yaml.safe_dump({section: config} if section else config))


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a caller's folder."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nolock", *arguments, "--", "done.txt"]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def planned(output: str) -> set[str]:
    """The rules of a dry run."""
    return set(re.findall(r"^(\w+) +\d+$", output, re.MULTILINE))


RULES = {"emb_filter", "emb_split", "emb_embed", "emb_merge", "emb_ledger", "emb_report", "emb_runtimes", "mine"}


@pytest.mark.parametrize("section", ["", "embedome"])
@pytest.mark.parametrize("prefix", ["", "emb"])
@pytest.mark.slow
def test_a_caller_s_plan_has_all_rules_with_the_defaults(tmp_path, section, prefix):
    write_caller(tmp_path, {"shard": {"train": 3}}, section=section, prefix=prefix)
    result = snakemake(tmp_path, "--dry-run")
    assert result.returncode == 0, result.stdout
    assert planned(result.stdout) >= RULES
    assert re.search(r"emb_embed +5$", result.stdout, re.MULTILINE)  # val 1 and test 1, by default, and train 3
    assert "make_model" not in result.stdout


def test_a_caller_s_file_is_where_it_says_and_the_model_that_is_made_below_the_prefix(tmp_path):
    (tmp_path / "mine.fasta").write_text(">a\nMKVLAAGIVGLLLAQWERTYACDEFGH\n")
    config = {"source": {"kind": "fasta", "fasta": ["mine.fasta"]}}
    write_caller(tmp_path, config, prefix="emb")
    result = snakemake(tmp_path, "--filegraph")
    assert result.returncode == 0, result.stdout
    files = set(re.findall(r"[\w./-]+\.(?:fasta|json)\b", result.stdout))
    assert {"mine.fasta", "emb/resources/models/esm1nv-demo/config.json"} <= files
    assert all(path.startswith("emb/") for path in files - {"mine.fasta"})


def test_a_fault_in_a_caller_s_configuration_is_one_line(tmp_path):
    write_caller(tmp_path, {"shard": {"trian": 3}})
    result = snakemake(tmp_path, "--dry-run")
    assert result.returncode == 1
    assert "configuration: unknown key 'shard.trian'; did you mean 'train'?" in result.stdout
    assert "Traceback" not in result.stdout


@pytest.mark.slow
def test_nested_values_of_the_command_line(tmp_path):
    write_caller(tmp_path, {}, section="embedome")
    result = snakemake(tmp_path, "--dry-run", "--config", "embedome={shard: {train: 2}, cost: {linear: 1e-5}}")
    assert result.returncode == 0, result.stdout
    assert re.search(r"emb_embed +4$", result.stdout, re.MULTILINE)


@pytest.mark.slow
def test_a_snakefile_without_the_library_is_one_line(tmp_path):
    other = tmp_path / "copy"
    (other / "rules").mkdir(parents=True)
    for name in ("Snakefile", "config.yaml", "rules/common.smk"):
        (other / name).write_text((ROOT / name).read_text())
    write_caller(tmp_path, {}, snakefile=other / "Snakefile")
    result = snakemake(tmp_path, "--dry-run")
    assert result.returncode == 1
    assert "copy/rules: the rules come without the library; clone the repository" in result.stdout
    assert "Traceback" not in result.stdout


@pytest.mark.slow
def test_a_caller_s_run_ends_with_its_own_rule_and_the_rules_run_times_alone(tmp_path):
    config = changed(SMALL, shard={"train": 1})
    # What config.yaml says already is not named.
    assert "dask" not in config
    write_caller(tmp_path, config, prefix="emb")
    result = snakemake(tmp_path)
    assert result.returncode == 0, result.stdout
    rules = [line.split("\t")[0] for line in (tmp_path / "done.txt").read_text().splitlines()[1:]]
    assert {"make_demo", "filter", "embed", "merge", "report"} <= set(rules)
    assert "mine" not in rules
    assert not (tmp_path / "results" / "catalog").exists()
    report = snakemake(tmp_path, "--report", "report.html")
    assert report.returncode == 0, report.stdout
    assert (tmp_path / "report.html").stat().st_size > 100_000
