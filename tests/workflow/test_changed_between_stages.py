"""A file that changes between the stage that wrote it and the one that reads it: its digests are compared."""

import copy
import gzip
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records
from embedome.common.errors import UserError
from embedome.embedding.embed import embed_shard
from embedome.embedding.settings import EmbedSettings
from embedome.embedding.shard import write_shards
from embedome.merging.ledger import write_ledger
from embedome.sources.url import download_url
from embedome.splits.cluster import ClusterSettings, cluster_catalog
from embedome.splits.drop_leaks import drop_leaks
from embedome.splits.held_out import SearchSettings
from embedome.splits.split import split_catalog
from helpers.filtered import run_filter
from helpers.small_run import COST, PLAN, SHARDS, SOURCE, Line, limits, prepare, random_records, rough_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Line, Path]:
    """A run up to the data set, and its model."""
    folder = tmp_path_factory.mktemp("whole")
    line, model = prepare(folder / "run", random_records(3, range(20, 60))), rough_model(folder / "model")
    line.embed(model)
    line.merge()
    return line, model


@pytest.fixture
def run(whole: tuple[Line, Path], tmp_path: Path) -> Line:
    return whole[0].copy(tmp_path / "run")


def one_residue_more(catalog: Path) -> None:
    """Change a sequence of the catalog, and nothing else: each count stays."""
    path = catalog / "part-00000.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("sequence")
    changed = pc.replace_substring(table["sequence"], "A", "C", max_replacements=1).cast(table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), changed), path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_filter_reads_what_was_downloaded(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "on server").write_bytes(pack(b">a\nMKV\n>b\nMKVL\n"))
    target, record = tmp_path / "sequences", tmp_path / "release.json"
    download_url((tmp_path / "on server").as_uri(), "x", target, record)
    outputs = {name: tmp_path / "out" / name for name in ("catalog", "rejects", "summary")}
    assert filter_records([target], Criteria(), **outputs, release=record)["kept"] == 2
    shutil.rmtree(tmp_path / "out")
    target.write_bytes(pack(b">a\nMKV\n>b\nMKVA\n"))
    with pytest.raises(UserError, match=r"changed since it was downloaded: sha256 [0-9a-f]{64}, by its release.json"):
        filter_records([target], Criteria(), **outputs, release=record)
    assert not (tmp_path / "out" / "catalog").exists()
    assert not (tmp_path / "out" / "summary").exists()


def split(run: Line) -> None:
    outputs = {"splits": run.folder / "new.parquet", "summary": run.folder / "new.json"}
    split_catalog(run.folder / "catalog", run.folder / "filter.json", PLAN, **outputs)


def shard(run: Line) -> None:
    inputs = [run.folder / name for name in ("catalog", "splits.parquet", "splits.json")]
    write_shards(*inputs, SHARDS, COST, folder=run.folder / "new", summary=run.folder / "new.json")


def merge(run: Line) -> None:
    run.merge(run.folder / "new")


@pytest.mark.parametrize("stage", [split, shard, merge])
def test_each_stage_reads_the_catalog_that_the_filter_wrote(run: Line, stage: Callable[[Line], None]) -> None:
    stage(run)
    before = {path.name for path in run.folder.iterdir()}
    one_residue_more(run.folder / "catalog")
    with pytest.raises(UserError, match=r"not the catalog of .*json, or changed since; rerun the filter"):
        stage(run)
    assert {path.name for path in run.folder.iterdir()} == before


def test_stages_with_mmseqs_read_the_catalog_that_the_filter_wrote(run: Line) -> None:
    one_residue_more(run.folder / "catalog")
    before = {path.name for path in run.folder.iterdir()}
    new = {name: run.folder / f"new-{name}" for name in ("clusters", "splits", "rejects", "summary")}
    catalog, filtered, splits, summary = (
        run.folder / name for name in ("catalog", "filter.json", "splits.parquet", "splits.json")
    )
    plan = ClusterSettings("linclust", 0.5, 0.8, 0)
    with pytest.raises(UserError, match=r"not the catalog of .*filter\.json"):
        cluster_catalog(catalog, filtered, plan, clusters=new.pop("clusters"), summary=new["summary"], mmseqs=None)
    with pytest.raises(UserError, match=r"not the catalog of .*splits\.json"):
        drop_leaks(catalog, splits, summary, filtered, SearchSettings(5.7, 0.8, 0, 1e-3), 0.5, **new, mmseqs=None)
    assert {path.name for path in run.folder.iterdir()} == before


def test_a_shard_that_changed_is_not_embedded(run: Line, whole: tuple[Line, Path]) -> None:
    again = partial(
        embed_shard,
        run.fasta("train"),
        whole[1],
        run.folder / "new" / "train" / "00000.json",
        settings=EmbedSettings(),
        limits=limits(),
        source=SOURCE,
        shards=run.folder / "shards.json",
    )
    again()
    text = gzip.decompress(run.fasta("train").read_bytes())
    run.fasta("train").write_bytes(gzip.compress(text[:-2] + (b"A" if text[-2:-1] == b"C" else b"C") + b"\n"))
    (run.folder / "new" / "train" / "00000.json").unlink()
    with pytest.raises(UserError, match=r"not the sequences that .*shards.json lists, or changed since"):
        again()
    assert not (run.folder / "new" / "train" / "00000.json").exists()


FILES = {"filter": "filter.json", "split": "splits.json", "shards": "shards.json", "dataset": "dataset/_manifest.json"}


def ledger(run: Line) -> None:
    first = [run.folder / FILES[name] for name in ("filter", "split", "shards")]
    write_ledger(*first, run.manifests, run.folder / FILES["dataset"], run.folder / "ledger.json")


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("filter", ("catalog", 0, "sha256")),
        ("filter", ("inputs", 0, "sha256")),
        ("split", ("catalog_sha256",)),
        ("shards", ("catalog_sha256",)),
        ("shards", ("splits", "train", 1, "content_sha256")),
        ("dataset", ("provenance", "source", "inputs", 0, "sha256")),
    ],
)
def test_the_ledger_compares_what_stages_say(run: Line, name: str, keys: tuple) -> None:
    manifest = json.loads((run.folder / FILES["dataset"]).read_text())
    told = json.loads((run.folder / FILES["filter"]).read_text())
    manifest["provenance"]["source"] = {
        "inputs": [{key: each[key] for key in ("file", "sha256")} for each in told["inputs"]]
    }
    (run.folder / FILES["dataset"]).write_text(json.dumps(manifest))
    ledger(run)
    path = run.folder / FILES[name]
    about = copy.deepcopy(json.loads(path.read_text()))
    holder = about
    for key in keys[:-1]:
        holder = holder[key]
    assert len(holder[keys[-1]]) == 64
    holder[keys[-1]] = "0" * 64
    path.write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"the ledger does not close: .* are not the same"):
        ledger(run)


def test_a_filter_of_own_files_has_nothing_to_compare(tmp_path: Path) -> None:
    (tmp_path / "x.fasta").write_text(">a\nMKV\n")
    assert run_filter(tmp_path, tmp_path / "x.fasta").account["kept"] == 1
