"""A data set with the vectors of several layers, from embedding to reading; each is that of a run of its own."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from embedome.annotation.annotate import annotate_dataset
from embedome.annotation.labels import LabelSource
from embedome.annotation.reference_set import AnnotateSettings
from embedome.common.errors import UserError
from embedome.dataset import open_dataset
from embedome.dataset.dataset import Dataset
from embedome.dataset.export_arrays import export_hdf5, export_npy
from embedome.dataset.format import embedding_metadata
from embedome.dataset.part_file import write_part
from embedome.dataset.reuse import Reuse
from embedome.dataset.verify import verify_dataset
from embedome.embedding.embed import make_provenance
from embedome.embedding.settings import EmbedSettings
from embedome.parquet.vectors import vector_array, vector_matrix
from helpers import small_run as line
from helpers.small_run import Line

RECORDS = [*line.random_records(3, [*range(1, 50), 70, 90]), ("A", "MKTAYIAK"), ("B", "MKTAYIAK")]
SEVERAL = EmbedSettings(layer=(1, 3, 0), pooling=("mean", "max"))
NAMES = [f"layer_{layer}_{pooling}" for layer in (1, 3, 0) for pooling in ("mean", "max")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line.rough_model(tmp_path_factory.mktemp("layers") / "model", sizes={**line.SIZE, "layers": 3})


def make(folder: Path, model: Path, settings: EmbedSettings, earlier: Path | None = None) -> Line:
    made = line.prepare(folder, RECORDS, earlier=earlier)
    made.embed(model, settings)
    reuse = [folder / "reused.parquet", folder / "reuse.json"] if earlier else []
    made.merge(reuse=Reuse.of_files([str(path) for path in reuse], earlier))
    return made


@pytest.fixture(scope="module")
def several(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Line:
    return make(tmp_path_factory.mktemp("several") / "line", model, SEVERAL)


@pytest.fixture(scope="module")
def single(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Dataset]:
    """A data set of each layer by itself."""
    folder = tmp_path_factory.mktemp("single")
    settings = EmbedSettings(pooling=("mean", "max"))
    return {
        layer: open_dataset(make(folder / str(layer), model, replace(settings, layer=layer)).dataset)
        for layer in (1, 3, 0)
    }


def pairs(single: dict[int, Dataset]) -> Iterator[tuple[str, Dataset, str]]:
    for name in NAMES:
        _, layer, pooling = name.split("_")
        yield name, single[int(layer)], pooling


def test_columns_are_named_by_layer_and_pooling(several: Line) -> None:
    data = open_dataset(several.dataset)
    assert data.poolings == NAMES
    columns = ["embedding", *(f"embedding_{name}" for name in NAMES[1:])]
    assert data.schema.names[-6:] == columns
    for path in several.dataset.glob("split=*/*.parquet"):
        assert pq.read_schema(path).names[-6:] == columns
    assert data.manifest["provenance"]["layer"] == [1, 3, 0]
    verify_dataset(several.dataset)


@pytest.mark.slow
def test_each_vector_is_that_of_a_run_of_its_own(several: Line, single: dict[int, Dataset]) -> None:
    data = open_dataset(several.dataset)
    for name, alone, pooling in pairs(single):
        for (ids, vectors), (others, expected) in zip(
            data.matrix(pooling=name), alone.matrix(pooling=pooling), strict=True
        ):
            assert ids == others
            assert np.array_equal(vectors, expected)
    ids = ["A", "B", "P0007"]
    assert np.array_equal(data.get(ids), single[1].get(ids))
    assert np.array_equal(data.get(ids, pooling="layer_0_max"), single[0].get(ids, pooling="max"))
    found = data.to_dask(pooling="layer_3_mean").compute(scheduler="synchronous")
    assert np.array_equal(found, single[3].to_dask().compute(scheduler="synchronous"))


def test_a_name_that_is_not_there_is_refused(several: Line) -> None:
    with pytest.raises(UserError, match=r"no vectors of pooling 'mean'; there are layer_1_mean, layer_1_max, layer_3_"):
        open_dataset(several.dataset).get(["A"], pooling="mean")


def test_exported_by_name(several: Line, single: dict[int, Dataset], tmp_path: Path) -> None:
    import h5py

    data = open_dataset(several.dataset)
    export_npy(data, tmp_path / "several.npy", pooling="layer_3_max")
    export_npy(single[3], tmp_path / "single.npy", pooling="max")
    assert (tmp_path / "several.npy").read_bytes() == (tmp_path / "single.npy").read_bytes()
    export_hdf5(data, tmp_path / "several.h5", pooling="layer_0_mean")
    with h5py.File(tmp_path / "several.h5") as file:
        assert np.array_equal(file["B"][:], single[0].get(["B"])[0])


def test_reused_by_the_same_layers_only(several: Line, model: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "again", model, replace(SEVERAL, layer=(1, -1, 0)), several.dataset)
    assert not list(again.folder.rglob("embeddings/**/*-00000.parquet"))
    one, other = open_dataset(again.dataset), open_dataset(several.dataset)
    ids = [name for name, _ in RECORDS]
    assert one.rows(ids).equals(other.rows(ids))
    for layer in ((3, 1, 0), (1, 3), 1):
        other_layers = line.prepare(tmp_path / str(layer), RECORDS, earlier=several.dataset)
        with pytest.raises(UserError, match="made with another layer;"):
            other_layers.embed(model, replace(SEVERAL, layer=layer))


def test_annotated_by_name(several: Line, single: dict[int, Dataset], tmp_path: Path) -> None:
    table = tmp_path / "labels.tsv"
    table.write_text("id\tlabel\n" + "".join(f"P{i:04d}\tL{i % 3}\n" for i in range(25)))
    labels = LabelSource(table)
    annotate_dataset(several.dataset, labels, tmp_path / "out", AnnotateSettings(2, pooling="layer_3_max"))
    annotate_dataset(single[3].folder, labels, tmp_path / "alone", AnnotateSettings(2, pooling="max"))
    annotate_dataset(several.dataset, labels, tmp_path / "first", AnnotateSettings(2))
    for split in ("train", "val", "test"):
        rows = [line.rows(tmp_path / name / f"split={split}" / "*.parquet", "*") for name in ("out", "alone", "first")]
        assert rows[0] == rows[1] != rows[2]
    with pytest.raises(UserError, match="no vectors of pooling 'max'; there are layer_1_mean"):
        annotate_dataset(several.dataset, labels, tmp_path / "no", AnnotateSettings(pooling="max"))
    assert not (tmp_path / "no").exists()


def test_a_later_vector_that_is_not_finite_is_found(several: Line, tmp_path: Path) -> None:
    """As `embedding` is, before a part goes into a data set."""
    own = several.copy(tmp_path / "line")
    part, manifest = own.folder / "embeddings/val/00000-00000.parquet", own.folder / "embeddings/val/00000.json"
    file = pq.ParquetFile(part)
    about = json.loads(file.metadata.metadata[b"embedome"])
    table, column = file.read().replace_schema_metadata(None), "embedding_layer_0_max"
    spoiled = vector_matrix(table[column]).copy()
    spoiled[0, 5] = np.nan
    position = table.schema.get_field_index(column)
    part.unlink()
    changed = table.set_column(position, table.schema.field(position), vector_array(spoiled))
    write_part(part, changed, embedding_metadata(about["provenance"], fingerprint=about["fingerprint"]))
    found = json.loads(manifest.read_text())
    found["parts"][0]["sha256"] = hashlib.sha256(part.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(found))
    with pytest.raises(UserError, match="a vector is not finite"):
        own.merge(tmp_path / "dataset")


def test_the_layers_are_in_the_provenance(model: Path) -> None:
    def layer(*named: int, **others: object) -> object:
        return make_provenance(model, EmbedSettings(layer=named, **others), line.SOURCE)["layer"]

    assert (layer(-1), layer(3), layer(2, -1), layer(-1, -4, 1)) == (-1, 3, [2, 3], [3, 0, 1])
    assert make_provenance(model, EmbedSettings(layer=(-1,)), line.SOURCE) == make_provenance(
        model, EmbedSettings(), line.SOURCE
    )
    with pytest.raises(UserError, match=r"embed\.layer is 3, -1; expected each layer once"):
        layer(3, -1)
    with pytest.raises(UserError, match=r"embed\.layer is 4; expected 0"):
        layer(1, 4)
    with pytest.raises(UserError, match=r"embed\.layer names several layers; per-residue embeddings are of one"):
        layer(1, 2, per_residue=True)


def test_deviation_of_int8_is_measured_of_all_layers(model: Path) -> None:
    """The worst of all vectors: a layer that is far off shows, wherever it is named."""
    alone = [deviation(model, layer) for layer in (0, 2, 3)]
    assert deviation(model, 0, 2, 3) == {
        "min_cosine": min(each["min_cosine"] for each in alone),
        "max_abs": max(each["max_abs"] for each in alone),
    }


def deviation(model: Path, *layer: int) -> dict[str, float]:
    return make_provenance(model, EmbedSettings("int8", layer=layer), line.SOURCE)["int8_deviation"]
