"""The workflow within another one: as Snakemake's module, in the form that snakedeploy writes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from embedome import __version__
from embedome.workflow.run_folder import list_workflow
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


@pytest.mark.slow
def test_a_caller_s_file_is_where_it_says_and_the_model_that_is_made_below_the_prefix(tmp_path):
    (tmp_path / "mine.fasta").write_text(">a\nMKVLAAGIVGLLLAQWERTYACDEFGH\n")
    config = {"source": {"kind": "fasta", "fasta": ["mine.fasta"]}}
    write_caller(tmp_path, config, prefix="emb")
    result = snakemake(tmp_path, "--filegraph")
    assert result.returncode == 0, result.stdout
    files = set(re.findall(r"[\w./-]+\.(?:fasta|json)\b", result.stdout))
    assert {"mine.fasta", "emb/resources/models/esm1nv-demo/config.json"} <= files
    assert all(path.startswith("emb/") for path in files - {"mine.fasta"})


@pytest.mark.slow
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


def write_rules_alone(folder: Path) -> Path:
    """A git repository with the workflow, and no library; gives the Snakefile."""
    for path in list_workflow(ROOT):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes((ROOT / path).read_bytes())
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    return folder / "Snakefile"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Have Python find another library than the one of the checkout."""
    (folder / "embedome").mkdir(parents=True)
    (folder / "embedome" / "__init__.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def write_caller_of_github(folder: Path, config: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a workflow that uses this one as snakedeploy has it, of a repository that Snakemake has cloned before."""
    repository = write_rules_alone(folder / "copy").parent
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    clone = folder / "cache/snakemake/snakemake/source-cache/snakemake-git-cache/github.com/an/embedome"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(repository), str(clone)], check=True)
    write_caller(folder, config, snakefile="it")
    text = (folder / "Snakefile").read_text()
    fetched = 'github("an/embedome", path="workflow/Snakefile", tag="v1")'
    (folder / "Snakefile").write_text(text.replace('"it"', fetched))


@pytest.mark.slow
def test_rules_that_snakemake_fetches_use_the_library_that_is_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "scripts"))
    write_caller_of_github(tmp_path, {"shard": {"train": 3}}, monkeypatch)
    result = snakemake(tmp_path, "--dry-run")
    assert result.returncode == 0, result.stdout
    assert planned(result.stdout) >= RULES


@pytest.mark.slow
def test_jobs_of_rules_that_snakemake_fetches_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "scripts"))
    write_caller_of_github(tmp_path, SMALL, monkeypatch)
    result = snakemake(tmp_path, "--until", "emb_split")
    assert result.returncode == 0, result.stdout
    assert (tmp_path / "results/splits.parquet").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "found"),
    [("raise ModuleNotFoundError('gone')", "none"), ("__version__ = '0.0.9'", "0.0.9")],
)
def test_rules_without_their_library_are_one_line(tmp_path, monkeypatch, program, found):
    write_caller(tmp_path, {}, snakefile=write_rules_alone(tmp_path / "copy"))
    install(tmp_path / "installed", monkeypatch, program)
    result = snakemake(tmp_path, "--dry-run")
    assert result.returncode == 1
    said = f"copy/rules: the rules are those of embedome {__version__}, and {sys.executable} has {found}; install"
    assert said in result.stdout
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
