"""Words that a stranger stumbles over are not used: code, tests and documents say it in the field's terms."""

import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

# What to write instead.
INSTEAD = {
    r"mend(s|ed|ing)?": "repair, correct",
    r"anew": "again; recomputed, rebuilt",
    r"so many(?! that)": "a number of, this many",
    r"how-?manieth": "its index",
    r"behind": "after, next to",
    r"which see for": "see there for",
    r"the one that is none": "one that is not valid",
}
FOLDERS = ("scripts", "tests", "benchmarks", "docs", "workflow", "rules", "schemas", "slurm", "presets", "envs")
TEXTS = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".smk", ".md", ".yaml", ".rst") and path != Path(__file__)
] + [ROOT / name for name in ("README.md", "CHANGELOG.md", "Makefile", "Snakefile", "config.yaml")]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_word_that_a_stranger_stumbles_over(path: Path) -> None:
    found = [
        f"line {number}: {match[0]!r}; rather {instead}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for word, instead in INSTEAD.items()
        for match in re.finditer(rf"\b{word}\b", line, re.IGNORECASE)
    ]
    assert found == []
