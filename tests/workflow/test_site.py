"""The documentation site: it builds without a warning, needs no network, and has what documents name."""

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.documents import DOCUMENTS, blocks
from helpers.paths import ROOT

BUILDER = ROOT / ".venv-docs" / "bin" / "sphinx-build"
# Attributes by which a browser fetches something without a click.
FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src")}
REMOTE = re.compile(r"(https?:)?//")


class Fetched(HTMLParser):
    """Collects the addresses that a page makes the browser fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if (tag, name) in FETCHED]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not BUILDER.exists():
        pytest.skip(f"{BUILDER} is not there; `make docs` makes it")
    folder = tmp_path_factory.mktemp("site")
    command = [BUILDER, "--quiet", "--fail-on-warning", "--keep-going", ROOT / "docs", folder]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.mark.slow
def test_every_document_is_a_page(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in DOCUMENTS if path.parent != ROOT}
    assert {page.as_posix() for page in pages if not (site / page).exists()} == set()


@pytest.mark.slow
def test_nothing_is_fetched_from_a_network(site):
    pages = list(site.rglob("*.html"))
    fetched = {address for page in pages for address in Fetched(page.read_text()).addresses}
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    fetched |= set(re.findall(r"(?:url\(\s*[\"']?|@import\s+[\"'])([^\"')]+)", styles))
    assert len(fetched) > len(pages) > 20
    assert {address for address in fetched if REMOTE.match(address)} == set()


@pytest.mark.slow
def test_the_index_of_the_search_is_part_of_the_site(site):
    assert "searchindex.js" in (site / "search.html").read_text()
    assert "leakag" in (site / "searchindex.js").read_text()


def test_what_documents_import_is_public():
    public = (ROOT / "docs" / "api.md").read_text()
    programs = [block for path in DOCUMENTS for _, block in blocks(path.read_text(), "python")]
    imports = {
        found for block in programs for found in re.findall(r"^from (embedome\S*) import (.+)$", block, re.MULTILINE)
    }
    names = {f"{module}.{name.strip()}" for module, listed in imports for name in listed.split(",")}
    assert len(names) > 5
    assert sorted(name for name in names if not re.search(rf":: {re.escape(name)}$", public, re.MULTILINE)) == []


def test_pins_are_those_of_the_lock():
    lock, site = (
        {
            name.lower(): version
            for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)
        }
        for path in (ROOT / "requirements.lock", ROOT / "docs" / "requirements.txt")
    )
    assert len(site.keys() & lock.keys()) > 10
    assert {name: version for name, version in site.items() if lock.get(name, version) != version} == {}
    assert {"sphinx", "myst-parser", "furo"} <= site.keys()
