"""What may be imported where: the package knows nothing of Snakemake, and the engine needs few packages."""

import ast
import re
import subprocess
import sys

import pytest
from helpers.paths import ROOT

PACKAGE = ROOT / "scripts" / "embedome"
SHIMS = sorted((ROOT / "scripts").glob("*.py"))
# Packages that a machine with only torch, transformers, numpy and pyarrow lacks.
ABSENT = (
    *("isal", "backports", "tqdm", "requests", "yaml", "jsonschema"),
    *("dask", "distributed", "matplotlib", "snakemake", "faiss", "Bio"),
)
# What may make the arguments of a shim's call.
ARGUMENTS = (
    r"[A-Z]\w+\.(from_config|of_job|of_files)",
    r"source_identity",
    r"snakemake\.\w+\.get",
    r"Path(\(.*\)\.parent\.resolve(\(\)\.as_uri)?)?",
)
# Where the shims have the type of the object from.
FOR_TYPES = PACKAGE / "workflow" / "job.py"
HEAVY = ("torch", "transformers", "dask", "distributed", "matplotlib", "pandas", "faiss", "h5py", "Bio")


def test_import_paths_of_the_page_on_migration_are_there():
    rows = re.findall(r"^\| `embedome\.\S+.*\| (.*) \|$", (ROOT / "docs" / "migration.md").read_text(), re.MULTILINE)
    modules = [name for row in rows for name in re.findall(r"`(embedome\.[a-z0-9_.]+)`", row)]
    assert len(modules) > 10
    missing = [name for name in modules if not (ROOT / "scripts" / f"{name.replace('.', '/')}.py").is_file()]
    assert not missing


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n{program}"],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("path", sorted(set(PACKAGE.rglob("*.py")) - {FOR_TYPES}), ids=lambda path: path.stem)
def test_the_package_does_not_use_the_snakemake_object(path):
    assert not re.search(r"\bsnakemake\.|import snakemake", path.read_text())


@pytest.mark.slow
def test_the_engine_imports_with_torch_transformers_numpy_and_pyarrow_alone():
    block = f"sys.modules.update(dict.fromkeys({ABSENT!r}))"
    result = python(f"{block}\nfrom embedome.embedding import embed, single_file")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "module",
    [
        *("catalog.filter", "splits.split", "dataset", "dataset.export_arrays"),
        *("embedding.shard", "merging.merge", "merging.ledger", "workflow.config", "annotation.annotate", "cli.main"),
    ],
)
@pytest.mark.slow
def test_data_stages_import_no_heavy_package(module):
    result = python(f"import embedome.{module}\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


@pytest.mark.parametrize("path", SHIMS, ids=lambda path: path.stem)
def test_a_shim_is_docstring_imports_and_one_call(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 29
    _, *statements = ast.parse(text).body
    assert ast.get_docstring(ast.parse(text)) == f"Rule {path.stem}."
    assert f"rule {path.stem}:" in "".join(each.read_text() for each in (ROOT / "rules").glob("*.smk"))
    *imports, guard, last = statements
    assert ast.unparse(guard) == "if TYPE_CHECKING:\n    from embedome.workflow.job import snakemake"
    assert all(isinstance(each, ast.ImportFrom) for each in imports)
    # Where the stage starts processes, they import this file.
    if isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'":
        [last] = last.body
    assert isinstance(last, ast.With)
    # One stage alone needs the Hub.
    online = path.stem == "fetch_model"
    assert ast.unparse(last.items[0]) == f"rule_log(snakemake.log{', offline=False' if online else ''})"
    [call] = last.body
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    calls = [ast.unparse(node.func) for node in ast.walk(call.value) if isinstance(node, ast.Call)]
    assert [name for name in calls[1:] if not any(re.fullmatch(known, name) for known in ARGUMENTS)] == []


def test_every_rule_has_what_its_kind_must_have():
    for path in (ROOT / "rules").glob("*.smk"):
        blocks = re.split(r"^\s*rule (\w+):\n", path.read_text(), flags=re.MULTILINE)
        for name, body in zip(blocks[1::2], blocks[2::2], strict=True):
            for directive in ("output", "log", "benchmark", "conda", "message", "script"):
                assert re.search(rf"^\s+{directive}:", body, re.MULTILINE), f"{name} has no {directive}"
            assert "localrule: True" in body or "resources:" in body, f"{name} has no resources"
