"""The report's first page: numbers before figures, each figure with its text, and a warning above all where due."""

import re
from pathlib import Path

import pytest
from embedome.analysis.overview import write_overview
from embedome.analysis.report_tables import write_tsv
from embedome.analysis.runtimes import HEADER, read_total
from embedome.common.json_files import write_json
from helpers.chromium import needs_chromium, open_page
from helpers.paths import ROOT
from helpers.report_numbers import LEDGER, statistics

SVG = '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg xmlns="http://www.w3.org/2000/svg"><text>{}</text></svg>\n'
BOTTOM = "element => element.getBoundingClientRect().bottom"
CAPTIONS = {"flow": ("The flow", "Bars < and more."), "lengths": ("Lengths", "How long they are.")}


def overview(folder: Path, **model) -> Path:
    """Write a page of two figures."""
    for name in CAPTIONS:
        (folder / f"{name}.svg").write_text(SVG.format(f"figure of {name}"))
    write_json(folder / "statistics.json", statistics(**model))
    write_json(folder / "ledger.json", LEDGER)
    rows = [("embed", 2, "1:00:05", 1, 1, 1), ("merge", 1, "100:00:55", 1, 1, 1)]
    write_tsv(folder / "runtimes.tsv", HEADER, rows)
    places = {name: folder / f"{name}.json" for name in ("statistics", "ledger")}
    figures = [folder / f"{name}.svg" for name in ("lengths", "flow")]
    write_overview(folder / "overview.html", figures, CAPTIONS, **places, runtimes=folder / "runtimes.tsv")
    return folder / "overview.html"


def test_times_of_the_table_are_added_up(tmp_path):
    overview(tmp_path)
    assert read_total(tmp_path / "runtimes.tsv") == 101 * 3600 + 60


def test_the_page_has_the_numbers_then_the_figures_with_their_texts(tmp_path):
    text = overview(tmp_path, trained=True).read_text()
    assert re.findall(r"<dt>(.*?)</dt>", text)[:3] == ["Sequences", "Dimension", "Model"]
    assert "101:01:00" in text
    order = ["<dl>", 'id="figure-lengths"', "figure of lengths", "How long", 'id="figure-flow"', "Bars &lt; and more."]
    places = [text.index(each) for each in order]
    assert places == sorted(places)
    assert "<?xml" not in text
    assert "Warning" not in re.sub(r"(?s)<style>.*?</style>", "", text)
    assert 'role="alert"' not in text


def test_random_weights_are_warned_of_above_the_numbers(tmp_path):
    text = overview(tmp_path, trained=False).read_text()
    assert text.index('role="alert"') < text.index("<dl>")


TEXTS = sorted(set((ROOT / "docs/report").glob("*.rst")) - {ROOT / "docs/report/workflow.rst"})


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_texts_of_figures_are_plain(path):
    """They stand in Snakemake's report as reStructuredText, and on the page as they are."""
    text = re.sub(r"\{\{.*?\}\}", "", path.read_text())
    assert not re.search(r"[*|`]|_\b(?!\w)|::|^\.\. ", text, re.MULTILINE)


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_the_warning_and_all_ten_numbers_without_scrolling(tmp_path):
    page_path = overview(tmp_path, trained=False)
    with open_page(page_path.as_uri(), tmp_path / "profile") as page:
        bottoms = page.run(f"[...document.querySelectorAll('[role=alert], dl > div')].map({BOTTOM})")
        assert len(bottoms) == 11
        assert max(bottoms) < page.run("window.innerHeight")
        assert page.requests == [page_path.as_uri()]
        assert page.complaints == []
