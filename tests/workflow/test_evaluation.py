"""The workflow evaluates its model: a job for each task, one table, the report's page."""

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
from embedome.evaluation.evaluate import evaluate
from embedome.evaluation.settings import EvaluateSettings
from helpers.made_tasks import write_flip_pairs, write_flip_values
from helpers.workflow_runs import SMALL, changed, run

# The whole module runs the workflow once: minutes.
pytestmark = pytest.mark.slow

GB1 = {"name": "gb1", "data": ["tasks/two_vs_rest.fasta"]}
STRUCTURE = {"name": "secondary_structure", "data": ["tasks/structure"]}
KEYS = {"heads": ["ridge"], "layers": "all", "seeds": 1}
CONFIG = changed(SMALL, evaluate={"tasks": [GB1, STRUCTURE], **KEYS})
MODEL = "esm1nv-demo"
FOLDER = f"results/evaluation/{MODEL}"


@pytest.fixture(scope="module")
def evaluated(demo, tmp_path_factory):
    folder = shutil.copytree(demo, tmp_path_factory.mktemp("evaluated") / "run", symlinks=True)
    write_flip_values(folder / GB1["data"][0])
    write_flip_pairs(folder / STRUCTURE["data"][0])
    result = run(folder, CONFIG)
    assert result.returncode == 0, result.stdout
    return folder


def test_each_task_has_the_results_of_the_command(evaluated, tmp_path):
    settings = EvaluateSettings(heads=("ridge",), layers=(), seeds=1)
    for task in (GB1, STRUCTURE):
        files, name = [evaluated / path for path in task["data"]], task["name"]
        evaluate(name, files, tmp_path, model=evaluated / "resources/models" / MODEL, settings=settings)
        methods = json.loads((evaluated / FOLDER / f"{name}.json").read_text())
        assert list(methods) == ["frozen", "random", "one-hot", "composition"][: 4 if name == "gb1" else 3]
        for method in methods:
            mine, theirs = (folder / name / f"{method}.json" for folder in (evaluated / FOLDER, tmp_path / MODEL))
            assert json.loads(mine.read_text())["results"] == json.loads(theirs.read_text())["results"]
    table = "table.parquet"
    assert pq.read_table(evaluated / "results/evaluation" / table).equals(pq.read_table(tmp_path / table))


def test_the_report_has_a_page_and_a_plot_and_run_times_have_both_jobs(evaluated):
    report = evaluated / "results/report" / MODEL
    assert "esm1nv-demo, ridge" in (report / "evaluation.svg").read_text()
    assert "secondary_structure" in (report / "evaluation.html").read_text()
    times = (evaluated / "results/runtimes" / f"{MODEL}.tsv").read_text().splitlines()
    assert {line.split("\t")[0]: line.split("\t")[1] for line in times}["evaluate"] == "2"


def tasks_of(plan):
    """The tasks that a dry run would evaluate."""
    return re.findall(r"Evaluating the vectors on (\S+)", plan)


def test_nothing_is_left_to_do_and_another_task_is_one_job(evaluated):
    assert "Nothing to be done" in run(evaluated, CONFIG, "--dry-run").stdout
    (evaluated / "six.fasta").write_text("".join(f">A{n}\nMKTAYIAKQR\n" for n in range(6)))
    (evaluated / "kinds.tsv").write_text("id\tsplit\tclass\nA0\ttrain\tx\n")
    more = changed(CONFIG, evaluate={"tasks": [GB1, STRUCTURE, {"name": "own", "data": ["six.fasta", "kinds.tsv"]}]})
    result = run(evaluated, more, "--dry-run", "--", "evaluate_table")
    assert tasks_of(result.stdout) == ["kinds"], result.stdout


def test_other_settings_evaluate_again(evaluated):
    result = run(evaluated, changed(CONFIG, evaluate={"seeds": 2}), "--dry-run", "--", "evaluate_table")
    assert sorted(tasks_of(result.stdout)) == ["gb1", "secondary_structure"], result.stdout


def test_what_is_missing_is_said_before_anything_runs(tmp_path):
    result = run(tmp_path, CONFIG, "--dry-run")
    assert result.returncode
    assert "evaluate.tasks: tasks/two_vs_rest.fasta: no such file; check the path" in result.stdout
    assert not (tmp_path / "results").exists()
