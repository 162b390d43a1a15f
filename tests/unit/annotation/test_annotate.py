"""Annotation of a data set: equal to a brute-force search with NumPy, and an account that adds up."""

import functools
import json
import random
import shutil
from collections import defaultdict

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from Bio.Align import PairwiseAligner, substitution_matrices
from embedome.annotation.annotate import annotate_dataset, annotate_partition
from embedome.annotation.build_reference import build_reference
from embedome.annotation.hits import HitFinder, Queries
from embedome.annotation.labels import LabelSource
from embedome.annotation.partitions import Partition, list_partitions
from embedome.annotation.reference_set import AnnotateSettings, ReferenceSet
from embedome.annotation.summary import summarise
from embedome.common.errors import UserError
from embedome.dataset import open_dataset
from embedome.dataset.manifest import read_manifest, write_manifest
from embedome.embedding.settings import EmbedSettings
from helpers.small_run import RESIDUES, prepare, random_records, rough_model, rows, snapshot

ALIGNER = PairwiseAligner(substitution_matrix=substitution_matrices.load("BLOSUM62"))
ALIGNER.open_internal_gap_score, ALIGNER.extend_internal_gap_score, ALIGNER.end_gap_score = -11, -1, 0
NAMES = ["GO:0000001", "GO:0000002", "cytosol", "zinc, bound", "Überzug"]


def mutated(rng, sequence, share):
    return "".join(rng.choice(RESIDUES) if rng.random() < share else residue for residue in sequence)


def family_records(seed):
    """Families of 6 around 12 ancestors, from near copies to what is hardly alike; of some, four copies more."""
    rng, records = random.Random(seed), []
    for family, (_, ancestor) in enumerate(random_records(seed, range(24, 60, 3))):
        for member, share in enumerate((0, 0.05, 0.2, 0.4, 0.6, 0.9)):
            records.append((f"F{family:02d}_{member}", mutated(rng, ancestor, share)))
        if family % 3 == 0:
            records += [(f"A{family:02d}_{copy}", ancestor) for copy in range(4)]
    rng.shuffle(records)
    return records


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotate")
    line = prepare(folder / "run", family_records(4))
    line.embed(rough_model(folder / "model"))
    line.merge()
    return line


@pytest.fixture(scope="module")
def truth(line):
    """Rows of the data set by id, as DuckDB reads them: split, digest, vector, sequence."""
    files = f"{line.dataset}/split=*/*.parquet"
    sequences = dict(rows(line.folder / "catalog" / "*.parquet", "id, sequence"))
    return {
        name: (split, digest, np.array(vector, np.float16).astype(np.float64), sequences[name])
        for name, split, digest, vector in rows(files, "id, split, digest, embedding")
    }


@pytest.fixture(scope="module")
def annotated(truth):
    """Labels of half of the proteins."""
    rng = random.Random(1)
    return {name: set(rng.choices(NAMES, k=rng.randint(1, 3))) for name in sorted(truth) if rng.random() < 0.5}


@pytest.fixture(scope="module")
def table(annotated, tmp_path_factory):
    """The labels as a table, with an id that is not in the data set."""
    path = tmp_path_factory.mktemp("labels") / "labels.tsv"
    lines = [f"{name}\t{label}" for name, labels in annotated.items() for label in sorted(labels)]
    path.write_text("\n".join(["id\tlabel", *lines, "nobody\tcytosol"]) + "\n", encoding="utf-8")
    return LabelSource(path)


@functools.cache
def identity(one, other):
    """By the aligned blocks, residue by residue."""
    best = next(iter(ALIGNER.align(one, other)))
    blocks = zip(*best.aligned, strict=True)
    same = sum(a == b for (i, j), (k, m) in blocks for a, b in zip(one[i:j], other[k:m], strict=True))
    return same / min(len(one), len(other))


def distance(one, other, metric):
    if metric == "euclidean":
        return float(np.sqrt(np.square(one - other).sum()))
    return 1 - float((one * other).sum() / np.sqrt(np.square(one).sum() * np.square(other).sum()))


def brute_force(truth, annotated, settings):
    """For every protein: its labels with reliability, hits that carry it, nearest hit and distance, by rank."""
    found = {}
    lookup = [name for name in annotated if truth[name][0] not in settings.hold_out]
    for query, (_, digest, vector, sequence) in truth.items():
        far = []
        for name in lookup:
            _, other_digest, other, other_sequence = truth[name]
            if name == query or (settings.skip_identical and digest == other_digest):
                continue
            limit = settings.max_identity
            if limit is not None and identity(sequence, other_sequence) > limit:
                continue
            far.append((distance(vector, other, settings.metric), name))
        far.sort()
        last = far[min(len(far), settings.neighbours) - 1][0] if far else 0
        hits = [each for each in far if each[0] <= last]
        sums, carriers = defaultdict(float), defaultdict(list)
        for d, name in hits:
            for label in annotated[name]:
                sums[label] += 0.5 / (0.5 + d) if settings.metric == "euclidean" else 1 - d
                carriers[label].append((d, name))
        ranked = sorted((-total / len(hits), label) for label, total in sums.items())
        found[query] = [
            (label, -value, len(carriers[label]), carriers[label][0][1], carriers[label][0][0])
            for value, label in ranked
            if -value >= settings.min_reliability
        ]
    return found


def read_annotation(folder):
    """Rows by id, in the order of the files."""
    found = defaultdict(list)
    columns = "id, label, reliability, n_hits, nearest, distance, rank"
    for path in sorted(folder.glob("split=*/*.parquet")):
        last = ("", 0)
        for name, label, reliability, n_hits, nearest, far, rank in rows(path, columns):
            assert (name, rank) > last
            last = (name, rank)
            found[name].append((label, reliability, n_hits, nearest, far))
            assert rank == len(found[name])
    return found


def assert_same(found, expected):
    assert set(found) == {name for name, labels in expected.items() if labels}
    for name, labels in found.items():
        columns, wanted = zip(*labels, strict=True), zip(*expected[name], strict=True)
        for column, values in zip(columns, wanted, strict=True):
            close = isinstance(values[0], float)
            assert list(column) == (pytest.approx(values, abs=1e-6) if close else list(values)), name


CASES = [
    AnnotateSettings(neighbours=1),
    AnnotateSettings(neighbours=4, skip_identical=True, min_reliability=0.3),
    AnnotateSettings(neighbours=3, metric="cosine", hold_out=("val", "test")),
    AnnotateSettings(neighbours=2, max_identity=0.5),
    AnnotateSettings(neighbours=500, hold_out=("train",)),
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_annotation_is_what_brute_force_finds(line, truth, annotated, table, tmp_path, settings):
    catalog = line.folder / "catalog"
    summary = annotate_dataset(line.dataset, table, tmp_path / "out", settings, catalog=catalog)
    expected = brute_force(truth, annotated, settings)
    assert_same(read_annotation(tmp_path / "out"), expected)
    check_account(summary, truth, annotated, expected, settings)


def check_account(summary, truth, annotated, expected, settings):
    counts = summary["counts"]
    held_out = sum(truth[name][0] in settings.hold_out for name in annotated)
    assert (counts["held_out"], counts["lookup"]) == (held_out, len(annotated) - held_out)
    assert counts["ids"] == len(annotated) + 1
    assert (counts["not_in_data_set"], counts["skipped"]) == (1, 0)
    for split, found in summary["splits"].items():
        mine = [expected[name] for name, row in truth.items() if row[0] == split]
        assert found["queries"] == len(mine)
        assert found["annotated"] == sum(bool(labels) for labels in mine)
        assert found["queries"] == found["annotated"] + found["without_hit"] + found["below_min_reliability"]
        assert found["rows"] == sum(map(len, mine))
    assert summary["index"]["recall"]["recall"] == 1


def test_hits_left_out_are_counted(line, truth, annotated, table, tmp_path):
    settings = AnnotateSettings(neighbours=3, skip_identical=True, max_identity=0.5)
    summary = annotate_dataset(line.dataset, table, tmp_path / "out", settings, catalog=line.folder / "catalog")
    own = sum(found["left_out"]["own"] for found in summary["splits"].values())
    assert own == len(annotated)
    digests = defaultdict(list)
    for name in annotated:
        digests[truth[name][1]].append(name)
    copies = sum(len(set(digests[row[1]]) - {name}) for name, row in truth.items())
    assert sum(found["left_out"]["identical_sequence"] for found in summary["splits"].values()) == copies > 0
    assert sum(found["left_out"]["above_max_identity"] for found in summary["splits"].values()) > 0


def test_all_hits_at_the_distance_of_the_last_count(line, truth, tmp_path):
    """Five proteins of one sequence: each has the four others at distance 0, though one neighbour is asked for."""
    copies = [name for name in truth if name.startswith("A00") or name == "F00_0"]
    assert len(copies) == 5
    path = tmp_path / "labels.csv"
    path.write_text("id,label\n" + "".join(f"{name},L{number}\n" for number, name in enumerate(copies)))
    annotate_dataset(line.dataset, LabelSource(path), tmp_path / "out", AnnotateSettings(neighbours=1))
    found = read_annotation(tmp_path / "out")
    for number, name in enumerate(copies):
        others = [(f"L{other}", 0.25, 1) for other in range(5) if other != number]
        assert [row[:3] for row in found[name]] == others
    assert all(len(found[name]) == 5 for name in truth if name not in copies)


@pytest.mark.slow
def test_partitions_threads_and_how_rows_arrive_change_no_byte(line, table, tmp_path, monkeypatch):
    """Partition by partition, as jobs do, in small batches, with few candidates at first; and the whole in one go."""
    settings = AnnotateSettings(neighbours=3, max_identity=0.6, hold_out=("val",))
    catalog = line.folder / "catalog"
    annotate_dataset(line.dataset, table, tmp_path / "whole", settings, catalog=catalog, threads=2)
    monkeypatch.setattr("embedome.annotation.annotate.QUERY_ROWS", 7)
    monkeypatch.setattr("embedome.annotation.hits.SPARE", 1)
    monkeypatch.setattr("embedome.annotation.hits.BLOCK_NUMBERS", 100)
    folder = tmp_path / "parts"
    build_reference(line.dataset, table, folder / "_lookup", settings, catalog=catalog)
    files = []
    for partition in reversed(list_partitions(open_dataset(line.dataset))):
        files.append(folder / partition.name)
        annotate_partition(line.dataset, folder / "_lookup", partition, files[-1], catalog=catalog)
    summarise(line.dataset, folder / "_lookup", files[::-1], folder / "_summary.json")
    assert snapshot(folder) == snapshot(tmp_path / "whole")
    # Of an earlier run, which was cut into more.
    shutil.copy(files[0], folder / "split=train" / "part-00099.parquet")
    # And what is none of an annotation, which stays.
    mine = folder / "split=train" / "part-mine.parquet"
    mine.write_bytes(b"precious")
    summarise(line.dataset, folder / "_lookup", files, folder / "_summary.json")
    assert mine.read_bytes() == b"precious"
    mine.unlink()
    assert snapshot(folder) == snapshot(tmp_path / "whole")


def test_every_file_of_a_data_set_is_in_one_partition_whatever_their_number(line):
    data = open_dataset(line.dataset)
    for shards in (1, 2, 5):
        found = []
        for split in data.splits:
            for index in range(shards):
                for files in Partition(split, index, shards).files(data):
                    found += files
        assert sorted(found) == sorted(data.folder / entry["file"] for entry in data.files())


@pytest.mark.filterwarnings("ignore")
def test_a_large_look_up_set_is_searched_in_lists(line, truth, table, annotated, tmp_path, monkeypatch):
    """Lists of some 8 rows, one of which is searched, against neighbours counted by brute force."""
    monkeypatch.setattr("embedome.dataset.to_faiss.TRAIN_ROWS", 8)
    monkeypatch.setattr("embedome.dataset.to_faiss.PROBES", 1)
    settings = AnnotateSettings(neighbours=4, exact_up_to=0)
    summaries = [
        annotate_dataset(line.dataset, table, tmp_path / name, settings, threads=threads)
        for name, threads in (("one", 1), ("two", 2))
    ]
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    index = summaries[0]["index"]
    assert index["kind"] == "inverted file"
    assert index["lists"] > 2
    metadata = pq.read_metadata(next((tmp_path / "one").glob("split=train/*.parquet"))).metadata[b"embedome"]
    assert json.loads(metadata)["annotation"]["index"] == index

    names = sorted(truth)
    vectors = np.stack([truth[name][2] for name in names]).astype(np.float16)
    queries = Queries(pa.array(names), pa.array([truth[name][1] for name in names]), vectors)
    hits = HitFinder(ReferenceSet(tmp_path / "one" / "_lookup"), settings).find(queries)
    shares = []
    for number, name in enumerate(names):
        far = sorted(distance(truth[name][2], truth[other][2], "euclidean") for other in annotated if other != name)
        found = int((hits.distance[hits.query == number] <= far[3] + 1e-9).sum())
        shares.append(min(4, found) / 4)
    assert index["recall"] == {"recall": pytest.approx(np.mean(shares), abs=1e-6), "queries": len(truth), "seed": 0}
    assert np.mean(shares) < 1


def test_the_one_file_of_embed_is_annotated_too(line, truth, table, annotated, tmp_path):
    """It has no splits; here a part stands in for it."""
    part = next(path for path in sorted(line.dataset.glob("split=train/part-*.parquet")))
    shutil.copy(part, tmp_path / "proteins.parquet")
    settings = AnnotateSettings(neighbours=2)
    summary = annotate_dataset(tmp_path / "proteins.parquet", table, tmp_path / "out", settings)
    mine = {name: truth[name] for (name,) in rows(part, "id")}
    labels = {name: annotated[name] for name in mine if name in annotated}
    assert_same(read_annotation(tmp_path / "out"), brute_force(mine, labels, settings))
    assert list(summary["splits"]) == ["all"]
    assert summary["counts"]["lookup"] == len(labels)


# Faults.


def test_a_table_without_a_known_id_and_one_whose_ids_are_all_held_out_are_refused(line, truth, tmp_path):
    path = tmp_path / "labels.tsv"
    path.write_text("id\tlabel\nnobody\tx\n")
    with pytest.raises(UserError, match=r"labels.tsv: none of its 1 ids \('nobody', …\) is in .*column 'id'"):
        annotate_dataset(line.dataset, LabelSource(path), tmp_path / "out", AnnotateSettings())
    name = next(name for name, row in truth.items() if row[0] == "val")
    path.write_text(f"id\tlabel\n{name}\tx\n")
    with pytest.raises(UserError, match="all 1 ids of the data set are held out"):
        annotate_dataset(line.dataset, LabelSource(path), tmp_path / "out", AnnotateSettings(hold_out=("val",)))
    assert not (tmp_path / "out").exists()


def test_an_unknown_split_and_an_identity_without_sequences_are_refused(line, table, tmp_path):
    with pytest.raises(UserError, match="no split 'dev'"):
        annotate_dataset(line.dataset, table, tmp_path / "out", AnnotateSettings(hold_out=("dev",)))
    with pytest.raises(UserError, match="needs the sequences"):
        annotate_dataset(line.dataset, table, tmp_path / "out", AnnotateSettings(max_identity=0.5))


def test_a_data_set_without_a_row_is_refused(table, tmp_path):
    model = rough_model(tmp_path / "model")
    made = prepare(
        tmp_path / "line", [("a", "MKVLAAMKVLAA"), ("b", "MKVLAAMKVLAAG")], {"val": 1, "test": 1, "train": 1}
    )
    made.embed(model, EmbedSettings(long_sequences="skip", max_residues=5))
    made.merge()
    with pytest.raises(UserError, match="the data set has no row"):
        annotate_dataset(made.dataset, table, tmp_path / "out", AnnotateSettings())


def test_a_folder_that_is_no_annotation_is_left_alone(line, table, tmp_path):
    (tmp_path / "precious").write_text("data")
    with pytest.raises(UserError, match="holds 'precious', which embedome did not make"):
        annotate_dataset(line.dataset, table, tmp_path, AnnotateSettings())
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_an_annotation_is_replaced_whole(line, table, tmp_path):
    annotate_dataset(line.dataset, table, tmp_path / "out", AnnotateSettings(neighbours=1))
    more = tmp_path / "out" / "split=train" / "part-00099.parquet"
    more.write_bytes(b"precious")
    with pytest.raises(UserError, match="is there already, and embedome did not make it"):
        annotate_dataset(line.dataset, table, tmp_path / "out", AnnotateSettings(neighbours=2))
    assert more.read_bytes() == b"precious"
    shutil.copy(more.with_name("part-00000.parquet"), more)
    annotate_dataset(line.dataset, table, tmp_path / "out", AnnotateSettings(neighbours=2))
    annotate_dataset(line.dataset, table, tmp_path / "fresh", AnnotateSettings(neighbours=2))
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "fresh")


def test_a_partition_that_is_missing_twice_there_or_of_another_run_is_refused(line, table, tmp_path):
    annotate_dataset(line.dataset, table, tmp_path / "one", AnnotateSettings(neighbours=1))
    annotate_dataset(line.dataset, table, tmp_path / "two", AnnotateSettings(neighbours=2))
    files = sorted((tmp_path / "one").glob("split=*/*.parquet"))
    out = tmp_path / "one" / "again.json"
    for wrong in (files[1:], [*files, files[0]]):
        with pytest.raises(UserError, match=r"proteins of split .* were annotated; expected .*, each once"):
            summarise(line.dataset, tmp_path / "one" / "_lookup", wrong, out)
    stranger = sorted((tmp_path / "two").glob("split=*/*.parquet"))[0]
    with pytest.raises(UserError, match="made with another reference set"):
        summarise(line.dataset, tmp_path / "one" / "_lookup", [stranger, *files[1:]], out)


def test_the_reference_set_of_another_data_set_is_refused(line, table, tmp_path):
    annotate_dataset(line.dataset, table, tmp_path / "out", AnnotateSettings())
    other = line.copy(tmp_path / "copy")
    write_manifest(other.dataset, read_manifest(other.dataset) | {"changed": True})
    with pytest.raises(UserError, match="made from another data set"):
        annotate_partition(other.dataset, tmp_path / "out" / "_lookup", Partition("val", 0, 1), tmp_path / "x.parquet")


def test_a_partition_needs_the_catalog_for_a_largest_identity(line, table, tmp_path):
    settings = AnnotateSettings(max_identity=0.6)
    build_reference(line.dataset, table, tmp_path / "_lookup", settings, catalog=line.folder / "catalog")
    with pytest.raises(UserError, match="a largest identity needs the sequences; name the catalog"):
        annotate_partition(line.dataset, tmp_path / "_lookup", Partition("val", 0, 1), tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()


def test_duckdb_joins_it_with_the_data_set(line, table, tmp_path):
    annotate_dataset(line.dataset, table, tmp_path / "out", AnnotateSettings())
    count = duckdb.sql(f"""
        select count(*), count(distinct a.id) from '{tmp_path}/out/split=*/*.parquet' a
        join '{line.dataset}/split=*/*.parquet' d on a.id = d.id and a.split = d.split where rank = 1
    """).fetchall()
    assert count[0][0] == count[0][1] == len(open_dataset(line.dataset))
