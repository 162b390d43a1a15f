"""The report: plots with every count, the same bytes each time, of any data set; tables that are the numbers."""

import csv
import json
import random
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from embedome.analysis.analyse import Samples, analyse_dataset
from embedome.analysis.drawing import save
from embedome.analysis.evaluation_scores import plot_scores
from embedome.analysis.labels import sample_labels
from embedome.analysis.plots import norm_edges, plot_lengths, plot_points
from embedome.analysis.report import flatten, write_report
from embedome.analysis.report_tables import write_page
from embedome.analysis.runtimes import write_runtimes
from embedome.common.errors import UserError
from embedome.common.json_files import write_json
from embedome.evaluation.results import COLUMNS
from helpers.filtered import tree
from helpers.written_dataset import Protein, write_dataset

PLOTS = ("flow", "lengths", "composition", "norms", "spectrum", "pca", "umap", "neighbours", "drift")
LEDGER = {
    "read": 130,
    "rejected": {"too-short": 10},
    "states": {"embedded": 115},
    "skipped": {"too-long": 5},
    "splits": {
        "val": {"states": {"embedded": 10}, "skipped": {}, "sequences": 10},
        "test": {"states": {"embedded": 20}, "skipped": {}, "sequences": 20},
        "train": {"states": {"embedded": 85}, "skipped": {"too-long": 5}, "sequences": 90},
    },
}


def report(folder: Path, sizes: tuple[int, int, int], dimension: int = 8) -> Path:
    """Analyse and report a data set of random vectors, a number of them in each split."""
    rng, chance = np.random.default_rng(0), random.Random(0)
    proteins = []
    for split, size in zip(("val", "test", "train"), sizes, strict=True):
        for number in range(size):
            sequence = "".join(chance.choices("ACDEFGHIKLMNPQRSTVWYX", k=chance.randint(20, 300)))
            proteins.append(
                Protein(f"{split}{number}", split, sequence, rng.normal(size=dimension), number % 4 or None)
            )
    write_dataset(folder, proteins, dimension)
    analyse_dataset(
        folder / "dataset",
        folder / "catalog",
        folder / "splits.parquet",
        folder / "analysis",
        samples=Samples(50, 30, 0),
    )
    write_json(folder / "ledger.json", LEDGER)
    write_report(folder / "analysis", folder / "ledger.json", folder / "report", pca_sequences=30)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return report(tmp_path_factory.mktemp("report") / "run", (10, 20, 85))


def texts(path: Path) -> list[str]:
    """The texts of an SVG, which is well-formed."""
    return [
        "".join(each.itertext()).strip() for each in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    ]


def cells(page: Path) -> list[list[str]]:
    """The texts of a page's table, without its head."""
    return [re.findall(r"<td[^>]*>([^<]*)</td>", line) for line in re.findall("<tr><td.*", page.read_text())]


@pytest.mark.slow
def test_the_same_numbers_give_the_same_bytes(folder):
    write_report(folder / "analysis", folder / "ledger.json", folder / "again", pca_sequences=30)
    assert tree(folder / "again") == tree(folder / "report")


@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.slow
def test_plots_have_a_title_and_axes_with_units_and_say_how_many(folder, name):
    found = texts(folder / "report" / f"{name}.svg")
    expected = {
        "flow": ["What became of every record", "rejected: too-short", "10 (7.7%)", "embedded whole", "115 (88.5%)"],
        "lengths": ["Lengths of 115 sequences, duplicates included", "length (residues)", "val (10)", "train (85)"],
        "composition": ["share of the split's residues (%)", "residue", "other"],
        "norms": ["Norms of 115 vectors", "Euclidean norm of the embedding", "test (20)"],
        "spectrum": ["share of the variance (%)", "principal components"],
        "pca": ["30 sampled sequences on the principal axes of all vectors", "split (sequences)"],
        "umap": ["There is no map: report.umap_sequences is 0"],
        "neighbours": ["Nearest neighbours among 50 sampled sequences", "1 - cosine to the nearest other sequence"],
        "drift": ["Drift from train (85 rows), dimension by dimension", "val (10 rows)", "20 rows, by chance"],
    }
    assert set(expected[name]) <= set(found), found
    text = (folder / "report" / f"{name}.svg").read_text()
    # On white, whatever the page is.
    assert re.search(r'id="patch_1">\s*<path [^>]*style="fill: #ffffff"', text)
    assert "dc:date" not in text


@pytest.mark.parametrize("sizes", [(0, 0, 1), (2, 2, 0), (0, 1, 5)])
@pytest.mark.slow
def test_the_smallest_data_sets_are_drawn(tmp_path, sizes):
    report(tmp_path / "run", sizes, dimension=3)
    assert all(texts(tmp_path / "run" / "report" / f"{name}.svg") for name in PLOTS)


@pytest.mark.slow
def test_equal_vectors_are_drawn(tmp_path):
    proteins = [Protein(f"P{number}", "train", "MKV" * (number + 9), np.zeros(4)) for number in range(5)]
    folder = write_dataset(tmp_path / "run", proteins, 4)
    places = (folder / name for name in ("dataset", "catalog", "splits.parquet", "analysis"))
    found = analyse_dataset(*places, samples=Samples(9, 9, 9))
    assert found["norms"]["all"]["max"] == 0
    assert found["equal_vectors"]["sequences"] == 5
    write_json(folder / "ledger.json", LEDGER)
    write_report(folder / "analysis", folder / "ledger.json", folder / "report")
    assert "Norms of 5 vectors" in texts(folder / "report" / "norms.svg")


def test_families_have_a_panel_of_their_own_and_the_map_is_drawn(folder, tmp_path):
    sample = pq.read_table(folder / "analysis" / "sample.parquet")
    names = [f"F{number % 9}" for number in range(len(sample))]
    sample = sample.set_column(sample.column_names.index("family"), "family", [names])
    drawn = np.arange(len(sample)) < 40
    figure = plot_points("two panels", sample, sample_labels(sample), drawn, {"pc1": "one", "pc2": "other"})
    save(figure, tmp_path / "points.svg")
    found = texts(tmp_path / "points.svg")
    assert "family (sequences), the largest ones" in found
    assert f"others ({sum(name in ('F7', 'F8') for name in names[:40])})" in found


def test_a_family_has_its_colour_and_marker_in_every_figure(folder):
    sample = pq.read_table(folder / "analysis" / "sample.parquet")
    names = [f"F{number % 9}" for number in range(len(sample))]
    sample = sample.set_column(sample.column_names.index("family"), "family", [names])

    def drawn(rows: np.ndarray) -> dict[str, tuple]:
        figure = plot_points("", sample, sample_labels(sample), rows, {"pc1": "one", "pc2": "other"})
        groups = figure.axes[1].collections
        markers = [len(group.get_paths()[0].vertices) for group in groups]
        colors = [tuple(group.get_facecolor()[0]) for group in groups]
        return {
            group.get_label().split(" (")[0]: (color, marker)
            for group, color, marker in zip(groups, colors, markers, strict=True)
        }

    # Another family is the commonest among these.
    some = drawn(np.array([number % 9 == 8 or number < 10 for number in range(len(sample))]))
    assert len(some) == 8
    assert some == drawn(np.ones(len(sample), bool))


def test_small_splits_are_cumulative_curves_and_large_ones_histograms_too():
    counts = {"train": [400, 500, 300], "val": [1, 0, 3]}
    rows = [(split, 100 * place, n) for split, each in counts.items() for place, n in enumerate(each, 1) if n]
    lengths = pa.table(dict(zip(("split", "length", "sequences"), zip(*rows, strict=True), strict=True)))
    left, right = plot_lengths(lengths).axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["train (1,200)"]
    curves = {line.get_label(): line for line in right.lines}
    assert list(curves) == ["train (1,200)", "val (4)"]
    assert curves["val (4)"].get_xdata().tolist() == [100, 100, 300, 301]
    assert curves["val (4)"].get_ydata().tolist() == [0, 25, 100, 100]
    [alone] = plot_lengths(lengths.filter(pc.equal(lengths["split"], "val"))).axes
    assert [line.get_label() for line in alone.lines] == ["val (4)"]


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 2.0), (0.5, 2 ** (1 / 64)), (2.0**-24, 2.0**26), (0.0, 3.0), (0.0, np.inf)]
)
def test_bins_of_norms_cover_all_and_are_not_many(low, high):
    edges = norm_edges(low, high)
    assert edges[0] <= low
    assert edges[-1] >= min(high, edges[-1])
    assert 2 <= len(edges) <= 61
    assert (np.diff(edges) > 0).all()


def test_the_ledger_s_table_is_the_ledger(folder):
    with open(folder / "report" / "ledger.tsv", newline="") as handle:
        rows = list(csv.reader(handle, delimiter="\t"))
    assert rows == [
        ["state", "records", "val", "test", "train"],
        ["rejected: too-short", "10", "", "", ""],
        ["embedded", "115", "10", "20", "85"],
        ["skipped: too-long", "5", "0", "0", "5"],
        ["read", "130", "10", "20", "90"],
    ]
    assert cells(folder / "report" / "ledger.html") == rows[1:]


@pytest.mark.slow
def test_the_page_of_training_has_its_numbers_and_the_plot_all_baselines(folder, tmp_path):
    summary = {
        "recipe": "demo",
        "steps": 900,
        "tokens": 1_843_200,
        "averaged": [800, 900],
        "validation": {"loss": 2.84, "residue_loss": 2.837, "accuracy": 0.11},
        "baselines": {"unigram": 2.892, "composition": 2.852, "neighbours": 2.831},
    }
    steps = [
        {"step": step, "residue_loss": 2.9 - step / 1e5, "rate": 1e-3, "tokens_per_s": random.random()}
        for step in range(1, 901)
    ]
    held_out = [{"step": step, "validation": {"residue_loss": 2.9 - step / 1e5}} for step in range(0, 901, 100)]
    for name in ("one", "two"):
        write_json(tmp_path / name / "summary.json", summary)
        text = "".join(json.dumps(line) + "\n" for line in steps + held_out)
        (tmp_path / name / "training.jsonl").write_text(text)
        summary_path, page = tmp_path / name / "summary.json", tmp_path / name / "report"
        write_report(folder / "analysis", folder / "ledger.json", page, training=summary_path, pca_sequences=30)
    assert ["validation: residue_loss", "2.837"] in cells(tmp_path / "one" / "report" / "training.html")
    assert ["averaged", "800, 900"] in cells(tmp_path / "one" / "report" / "training.html")
    drawn = (tmp_path / "one" / "report" / "training.svg").read_text()
    for text in ("unigram (2.892)", "composition (2.852)", "neighbours (2.831)", "learning rate", "900 steps"):
        assert text in drawn
    assert tree(tmp_path / "one" / "report") == tree(tmp_path / "two" / "report")
    assert not (folder / "report" / "training.html").exists()


def scores(**keys):
    """A row of the table of evaluations."""
    row = {"task": "gb1", "method": "frozen", "head": "ridge", "metric": "spearman", "main": True, "seeds": 1}
    return {**dict.fromkeys(COLUMNS), **row, "model": "m8", "value": 0.5, "low": 0.4, "high": 0.625, **keys}


@pytest.mark.slow
def test_the_page_of_evaluation_has_all_scores_and_the_plot_the_task_s_metric(folder, tmp_path):
    layers = [scores(layer=layer, value=0.4 + layer / 16, best_layer=layer == 1) for layer in (0, 1)]
    rows = [
        scores(task="structure", metric="accuracy", layer=2, best_layer=True, like_pretraining=0.125),
        *layers,
        scores(layer=1, metric="mse", main=False, value=1.2345678, best_layer=True),
        *(scores(layer=layer, method="random", value=0.25 + layer / 8, best_layer=layer == 0) for layer in (0, 1)),
        *(scores(method="one-hot", value=0.375, model=model) for model in ("m8", "m9")),
        scores(method="published", head=None, model="ESM-0", value=0.75, low=None, high=None, source="a paper"),
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(COLUMNS)), tmp_path / "table.parquet")
    for name in ("one", "two"):
        given = {"evaluation": tmp_path / "table.parquet", "pca_sequences": 30}
        write_report(folder / "analysis", folder / "ledger.json", tmp_path / name, **given)
    page = cells(tmp_path / "one" / "evaluation.html")
    assert len(page) == len(rows)
    assert page[0][:7] == ["gb1", "spearman", "m8", "frozen", "ridge", "0", "0.4"]
    assert [page[2][1], page[2][6]] == ["mse", "1.2346"]
    assert page[-1][0] == "structure"
    assert [line.count("0.125") for line in page] == [0] * (len(rows) - 1) + [1]
    drawn = texts(tmp_path / "one" / "evaluation.svg")
    expected = {"gb1", "structure", "spearman on test", "accuracy on test", "m8, ridge"}
    expected |= {"random, ridge (m8, layer 0): 0.250", "one-hot, ridge: 0.375", "ESM-0, published: 0.750"}
    assert expected <= set(drawn)
    assert not any("layer 1)" in text or "mse" in text for text in drawn)
    assert drawn.count("one-hot, ridge: 0.375") == 1
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert not (folder / "report" / "evaluation.html").exists()


def test_dots_are_at_the_scores_and_bars_at_the_intervals():
    rows = [scores(layer=layer, value=0.4 + layer / 16, best_layer=layer == 1) for layer in (0, 1)]
    [axes] = plot_scores([*rows, scores(method="composition", value=0.25)]).axes
    [drawn] = axes.containers
    dots, _, [bars] = drawn
    assert dots.get_xydata().tolist() == [[0, 0.4], [1, 0.4625]]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[0.4, 0.625], [0.4, 0.625]]
    lines = [line for line in axes.lines if list(line.get_xdata()) == [0, 1] and line.get_linestyle() == "-."]
    assert [line.get_ydata()[0] for line in lines] == [0.25]


@pytest.mark.slow
def test_the_leakage_s_page_is_what_was_measured(folder, tmp_path):
    def split(counts: list[int], total: int) -> dict:
        thresholds = [
            {"identity": 0.3 * number, "sequences": n, "fraction": n / total if total else None}
            for number, n in enumerate(counts, 1)
        ]
        return {"sequences": total, "without_hit": 0, "not_searched": total // 10, "thresholds": thresholds}

    write_json(tmp_path / "leakage.json", {"splits": {"val": split([7, 1], 30), "test": split([0, 0], 0)}})
    write_report(folder / "analysis", folder / "ledger.json", tmp_path / "with", leakage=tmp_path / "leakage.json")
    assert cells(tmp_path / "with" / "leakage.html") == [
        ["0.3", "7", "23.33", "0", ""],
        ["0.6", "1", "3.33", "0", ""],
        ["all", "30", "", "0", ""],
        ["not searched", "3", "", "0", ""],
    ]
    assert not (folder / "report" / "leakage.html").exists()


def test_pages_are_escaped_and_numbers_stand_to_the_right(tmp_path):
    write_page(tmp_path / "page.html", "a < b", ("what", "n"), [("<script>", 12345), ("x" * 64, "")])
    text = (tmp_path / "page.html").read_text()
    assert "<title>a &lt; b</title>" in text
    assert '<tr><td>&lt;script&gt;</td><td class="number">12,345</td></tr>' in text
    assert f'<td class="long">{"x" * 64}</td>' in text
    write_page(tmp_path / "none.html", "none", ("a", "b"), [])
    assert "<th>a</th><th>b</th>" in (tmp_path / "none.html").read_text()


def test_the_page_of_numbers_has_a_name_and_a_unit_for_each(folder):
    statistics = json.loads((folder / "analysis" / "statistics.json").read_text())
    rows = cells(folder / "report" / "numbers.html")
    expected = flatten({key: value for key, value in statistics.items() if key not in ("schema", "provenance")})
    assert [row[4] for row in rows] == [path for path, _ in expected]
    assert [row[2] for row in rows][:2] == ["115", "8"]
    assert [row for row in rows if not row[3] or row[0] == row[4]] == []


def test_a_sample_of_an_earlier_version_is_refused_with_the_remedy(folder, tmp_path):
    shutil.copytree(folder / "analysis", tmp_path / "analysis")
    sample = pq.read_table(tmp_path / "analysis" / "sample.parquet")
    pq.write_table(sample.drop_columns(["norm"]), tmp_path / "analysis" / "sample.parquet")
    with pytest.raises(UserError, match=r"sample\.parquet: no column norm; .* delete it and run again"):
        write_report(tmp_path / "analysis", folder / "ledger.json", tmp_path / "report")


def test_nested_json_becomes_one_line_per_value():
    value = {"a": {"b": [1, 2.5], "c": None}, "d": [{"e": True}, {"e": "text"}], "f": 3}
    assert flatten(value) == [("a: b", "1, 2.5"), ("a: c", "none"), ("d: 1: e", "yes"), ("d: 2: e", "text"), ("f", 3)]


def test_run_times_are_added_up_by_rule_and_those_of_other_runs_left_out(tmp_path):
    def write(name: str, *lines: tuple) -> None:
        path = tmp_path / "benchmarks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [("s", "h:m:s", "max_rss", "cpu_time"), *lines]
        path.write_text("\n".join("\t".join(str(value) for value in row) for row in rows) + "\n")

    write("filter.tsv", (2.04, "0:00:02", 100.4, 1.5))
    write("merge_my_model.tsv", (7200.4, "2:00:00", "-", "NA"))
    write("embed/my_model/train/00000.tsv", (60, "0:01:00", 900, 50))
    write("embed/my_model/val/00000.tsv", (5, "0:00:05", 950, 4.25))
    write("embed/other/val/00000.tsv", (999, "0:16:39", 999, 999))
    write("embed/my_model/val/00001.tsv", (999, "0:16:39", 999, 999))
    embed = [tmp_path / f"benchmarks/embed/my_model/{split}/00000.tsv" for split in ("train", "val", "test")]
    benchmarks = {
        name: [tmp_path / f"benchmarks/{file}.tsv"]
        for name, file in (("merge", "merge_my_model"), ("filter", "filter"), ("cluster", "cluster"))
    }
    write_runtimes(benchmarks | {"embed": embed}, tmp_path / "times.tsv", tmp_path / "times.html")
    lines = (tmp_path / "times.tsv").read_text().splitlines()
    assert [line.split("\t") for line in lines[1:]] == [
        ["embed", "2", "0:01:05", "60.0", "950", "54.2"],
        ["filter", "1", "0:00:02", "2.0", "100", "1.5"],
        ["merge", "1", "2:00:00", "7200.4", "0", "0.0"],
    ]
    assert "950</td>" in (tmp_path / "times.html").read_text()
