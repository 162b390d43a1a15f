"""What a release says of itself, in all places the same."""

import re

import yaml
from embedome import __version__
from helpers.paths import ROOT
from packaging.version import Version


def test_the_version_is_the_same_in_the_rules_and_in_the_citation():
    [rules] = re.findall(r'^VERSION = "(.*)"$', (ROOT / "rules" / "common.smk").read_text(), re.MULTILINE)
    assert rules == __version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == Version(__version__).base_version
    assert {"cff-version", "message", "title", "abstract", "authors", "license", "keywords"} <= set(citation)
    assert citation["license"] == "Apache-2.0"


def test_the_changelog_begins_with_this_version_or_says_that_it_is_next():
    first = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    if Version(__version__).is_devrelease:
        assert first == "Next"
    else:
        assert re.fullmatch(rf"{re.escape(__version__)} \(\d{{4}}-\d\d-\d\d\)", first)


def test_what_the_workflow_catalog_reads_is_there():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"] == {"conda": True, "apptainer": False, "apptainer+conda": False}
    assert usage["report"] is True
    assert (ROOT / "workflow" / "Snakefile").is_file()
