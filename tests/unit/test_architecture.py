"""Which wing may import which: itself, and wings on lower floors. docs/architecture.md has the picture."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers.paths import ROOT, SCRIPTS

PACKAGE = SCRIPTS / "embedome"
FLOORS = (
    {"common"},
    {"parquet", "sequences", "models"},
    {"sources", "catalog", "engine"},
    {"splits", "dataset", "decoding"},
    {"embedding", "merging", "analysis", "annotation", "training"},
    {"evaluation"},
    {"workflow"},
    {"cli"},
)
FLOOR = {wing: number for number, wings in enumerate(FLOORS) for wing in wings}
# A string that names a module, as process pools take it.
MODULE_NAME = re.compile(r"embedome(\.\w+)+")


def imported_modules(source: str, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Dotted names that a module of a package imports, anywhere in it, or names in a string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (tuple(name.name.split(".")) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = (*above, *(node.module.split(".") if node.module else ()))
            yield from ((*module, name.name) for name in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE_NAME.fullmatch(node.value):
            yield tuple(node.value.split("."))


def wrong_imports(package: Path) -> list[str]:
    """Imports against the floors, each as a line."""
    wrong = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).parts
        wing = parts[0]
        if wing not in FLOOR:
            continue
        for name in imported_modules(path.read_text(encoding="utf-8"), ("embedome", *parts[:-1])):
            other = name[1] if len(name) > 1 and name[0] == "embedome" else wing
            if other != wing and other in FLOOR and FLOOR[other] >= FLOOR[wing]:
                wrong.append(f"{'/'.join(parts)} imports {other}")
    return wrong


def test_a_wing_imports_only_itself_and_lower_floors():
    wrong = wrong_imports(PACKAGE)
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle():
    paths = {("embedome", *path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    graph = {
        module: {
            name[:end]
            for name in imported_modules(path.read_text(encoding="utf-8"), module[:-1])
            for end in range(2, len(name) + 1)
            if name[:end] in paths and name[:end] != module
        }
        for module, path in paths.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_every_wing_has_a_floor():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} <= FLOOR.keys()


def test_nothing_but_the_wings_is_at_the_top():
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == {"__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.stem)
def test_a_file_of_tests_has_at_most_700_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 700


def test_tests_lie_in_the_folder_of_their_wing():
    folders = {path.name for path in (ROOT / "tests" / "unit").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders <= FLOOR.keys()


@pytest.mark.parametrize("wing", sorted(FLOOR.keys() & {path.name for path in PACKAGE.iterdir()}))
def test_a_wing_says_in_one_sentence_what_it_is_for(wing):
    sentence = ast.get_docstring(ast.parse((PACKAGE / wing / "__init__.py").read_text(encoding="utf-8")))
    assert sentence
    assert sentence.endswith(".")
    assert "\n\n" not in sentence


@pytest.mark.parametrize(
    "path",
    sorted(path for wing in FLOOR for path in (PACKAGE / wing).rglob("*.py")),
    ids=lambda path: "/".join(path.relative_to(PACKAGE).parts),
)
def test_a_module_has_at_most_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize(
    "source",
    [
        "from embedome.engine.engine import Engine",
        "from embedome.engine import engine",
        "from embedome import engine",
        "import embedome.engine.engine",
        "import json, embedome.engine as engine",
        "from ..engine import engine",
        "from ..engine.engine import Engine",
        "from .. import engine",
        "def run():\n    from embedome.engine.engine import Engine\n",
        "pool = process_pool(2, 'embedome.engine.engine')",
        # Of the same floor.
        "from embedome.sequences.fasta import Entry",
    ],
)
def test_an_import_against_the_floors_is_found(tmp_path, source):
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet" / "module.py").write_text(source)
    assert len(wrong_imports(tmp_path)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from embedome.common.errors import UserError",
        "from embedome.engine.device import use_device",
        "import embedome.parquet.writer",
        "from . import device",
        "from .device import use_device",
        "from embedome import __version__",
        "text = 'see embedome.cli.main'",
    ],
)
def test_other_imports_are_allowed(tmp_path, source):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "module.py").write_text(source)
    assert wrong_imports(tmp_path) == []
