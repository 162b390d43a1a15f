"""The interactive map in a browser: all points are there, ids are found, colours change, nothing is loaded."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedome.analysis.interactive_map import named_field, write_map
from embedome.analysis.labels import Labels, sample_annotation, sample_labels
from embedome.analysis.palette import OTHER, SPLIT_STYLES
from helpers.chromium import NO_WEBGL, SOFTWARE_WEBGL, needs_chromium, open_page

COUNT, ON_MAP = 3000, 500


def made_sample(count: int, on_map: int) -> pa.Table:
    """A sample of made-up sequences, of which the first few are on the map by UMAP."""
    rng = np.random.default_rng(0)
    map_points = [[*rng.normal(size=on_map), *[None] * (count - on_map)] for _ in range(2)]
    return pa.table(
        {
            "id": [f"P{number:05d}" for number in range(count)],
            "split": rng.choice(["val", "test", "train"], count, p=[0.1, 0.2, 0.7]).tolist(),
            "length": pa.array(rng.integers(20, 3000, count), pa.int32()),
            "norm": pa.array(rng.normal(3, 0.2, count), pa.float32()),
            "taxid": pa.array([9606] * count, pa.int32()),
            "family": pa.array(
                [f"F{number}</script><i>" if number < 20 else None for number in rng.geometric(0.1, count)]
            ),
            "pc1": rng.normal(size=count),
            "pc2": rng.normal(size=count),
            "umap1": pa.array(map_points[0], pa.float32()),
            "umap2": pa.array(map_points[1], pa.float32()),
        }
    )


SAMPLE = made_sample(COUNT, ON_MAP)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("map") / "map.html"
    annotation = Labels.of("annotation", ["kinase" if number % 2 else None for number in range(COUNT)])
    write_map(path, SAMPLE, [sample_labels(SAMPLE), annotation], [0.25, 0.125], "a-model")
    return path


def page_data(path: Path) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


def numbers(array: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(array["base64"]), array["kind"])


def test_the_page_has_the_sample_s_numbers(path):
    data = page_data(path)
    assert base64.b64decode(data["ids"]).decode().split("\n") == SAMPLE["id"].to_pylist()
    assert [view["name"] for view in data["views"]] == ["Principal components", "UMAP"]
    np.testing.assert_allclose(numbers(data["views"][0]["x"]), SAMPLE["pc1"].to_numpy(), rtol=1e-6)
    there = np.isfinite(numbers(data["views"][1]["y"]))
    assert there.tolist() == [True] * ON_MAP + [False] * (COUNT - ON_MAP)
    fields = {field["key"]: field for field in data["fields"]}
    assert list(fields) == ["split", "length", "family", "annotation", "norm"]
    assert numbers(fields["length"]["values"]).tolist() == SAMPLE["length"].to_pylist()
    family = fields["family"]
    found = [family["names"][code] for code in numbers(family["values"])]
    assert found == [name or "unknown" for name in SAMPLE["family"].to_pylist()]


def test_without_umap_there_is_one_plane(tmp_path):
    sample = made_sample(50, 0)
    write_map(tmp_path / "map.html", sample, [], [], "a-model")
    assert len(page_data(tmp_path / "map.html")["views"]) == 1


def test_an_empty_sample_has_a_page(tmp_path):
    write_map(tmp_path / "map.html", SAMPLE[:0], [], [], "a-model")
    assert page_data(tmp_path / "map.html")["sequences"] == 0


def test_a_legend_s_numbers_add_up():
    field = named_field("split", ["val", "val", "else", None], SPLIT_STYLES)
    assert [entry["text"] for entry in field["legend"]] == ["val (2)", "others (1)", "unknown (1)"]
    assert field["legend"][1]["color"] == OTHER


def test_of_an_annotation_the_label_of_rank_1_is_taken(tmp_path):
    rows = {"id": ["A", "A", "B", "B", "C"], "label": ["y", "x", "v", "u", "w"], "rank": [2, 1, 1, 1, 1]}
    pq.write_table(pa.table(rows), tmp_path / "part.parquet")
    labels = sample_annotation(["B", "Z", "A"], [tmp_path / "part.parquet"])
    assert labels.values == ["v", None, "x"]
    assert set(labels.styles) == {"v", "x"}


COLORS = "new Set(window.embedomeMap.source.data.color)"
ENTER = "(field => {{ field.value = '{}'; field.dispatchEvent(new Event('{}')); }})(document.querySelector('{}'))"
WITH_WEBGL = "Boolean(Bokeh.index.get_one(window.embedomeMap.figures[0]).canvas_view.webgl)"
FOUND = "document.querySelector('#found').textContent"
# Once for all that was changed.
DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("graphics", [NO_WEBGL, SOFTWARE_WEBGL], ids=["canvas", "webgl"])
def test_a_browser_draws_all_finds_ids_and_asks_for_nothing(path, tmp_path, graphics):
    with open_page(path.as_uri(), tmp_path / "profile", graphics=graphics) as page:
        page.wait_for("'ready' in document.body.dataset")
        assert page.run(WITH_WEBGL) == (graphics == SOFTWARE_WEBGL)
        assert page.run("document.querySelector('#drawn').textContent") == (
            f"Principal components: {COUNT:,} drawn; UMAP: {ON_MAP:,} drawn"
        )
        finite = "window.embedomeMap.source.data.{}.filter(Number.isFinite).length"
        assert [page.run(finite.format(name)) for name in ("x0", "y0", "x1", "y1")] == [COUNT, COUNT, ON_MAP, ON_MAP]
        by_split = page.screenshot()
        assert page.run(f"{COLORS}.size") == 3

        options = page.run("[...document.querySelector('#color').options].map(option => option.value)")
        assert options == ["split", "length", "family", "annotation", "norm"]
        page.run(ENTER.format("family", "change", "#color"))
        assert page.run(f"{COLORS}.size") == 8
        # A name is text, whatever is in it.
        assert "F1</script><i> (" in page.run("document.querySelector('#legend').textContent")
        page.run(DRAWN)
        assert page.screenshot() != by_split
        page.run(ENTER.format("length", "change", "#color"))
        assert page.run(f"{COLORS}.size") > 30
        assert page.run("document.querySelector('#legend h2').textContent") == "length (residues)"

        page.run(DRAWN)
        before = page.screenshot()
        page.run(ENTER.format("P00042", "input", "#search"))
        row = SAMPLE[42:43].to_pylist()[0]
        assert page.run("window.embedomeMap.hits.data.x0") == [pytest.approx(row["pc1"], rel=1e-6)]
        assert f"1 found, in a ring: P00042, split {row['split']}, length {row['length']:,}," in page.run(FOUND)
        page.run(DRAWN)
        assert page.screenshot() != before
        page.run(ENTER.format("p0000", "input", "#search"))
        assert page.run(FOUND).startswith("10 found")
        page.run(ENTER.format("Q9", "input", "#search"))
        assert page.run(FOUND) == "No id of the sample has “Q9” in it."
        assert page.run("window.embedomeMap.hits.data.x0.length") == 0

        assert page.requests[0] == path.as_uri()
        assert [url for url in page.requests[1:] if not url.startswith("data:")] == []
        assert page.complaints == []
