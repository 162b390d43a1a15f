"""The embed stage: parts, their files, resumption, and what happens when it is killed."""

import base64
import gzip
import hashlib
import io
import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from threading import Event
from unittest import mock

import embedome
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from embedome.common.errors import UserError
from embedome.common.parallel import map_in_order, process_pool
from embedome.common.process import exit_on_sigterm, peak_memory
from embedome.dataset.format import embedding_metadata, embedding_schema
from embedome.dataset.part_file import read_rows, write_part
from embedome.embedding import part_pipeline as embedome_work
from embedome.embedding import parts as embedome_parts
from embedome.embedding.cost import CostModel
from embedome.embedding.embed import embed_records, embed_shard, shard_records
from embedome.embedding.part_pipeline import Machine, PartPipeline
from embedome.embedding.parts import cut_parts
from embedome.embedding.settings import EmbedSettings, PartLimits
from embedome.models.directory import load_model
from embedome.models.encoders.int8 import products_are_exact
from embedome.parquet.id_lookup import find_rows
from embedome.parquet.reader import RowReader
from embedome.parquet.vectors import vector_array, vector_matrix
from embedome.parquet.writer import ParquetSink
from embedome.sequences.records import Record
from helpers import small_run as line
from helpers.processes import output_of
from helpers.small_run import MAX_RESIDUES, HuggingFace, Line, Processes, assert_within_one_ulp
from hypothesis import example, given, settings
from hypothesis import strategies as st

LENGTHS = [*range(1, 71), *[30] * 10]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line.rough_model(tmp_path_factory.mktemp("embed") / "model")


@pytest.fixture(scope="module")
def reference(model: Path) -> HuggingFace:
    return HuggingFace(model)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """One shard of 80 sequences, 10 of them longer than the model."""
    plan = line.SplitSettings("hash", 1, 0, 0)
    folder = tmp_path_factory.mktemp("prepared")
    return line.prepare(folder, line.random_records(1, LENGTHS), {"val": 1, "test": 1, "train": 1}, plan)


@pytest.fixture(scope="module")
def shard(prepared: Line) -> Path:
    return prepared.fasta("train")


@pytest.fixture(scope="module")
def undisturbed(model: Path, shard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(shard, model, folder)
    return folder


@pytest.fixture(scope="module")
def processes() -> Processes:
    return Processes()


def work(shard: Path, model: Path, folder: Path, **changes: object) -> Callable[[], dict]:
    return partial(embed_shard, shard, model, folder / "00000.json", **{**arguments(), **changes})


def run(shard: Path, model: Path, folder: Path, **changes: object) -> dict:
    return work(shard, model, folder, **changes)()


def arguments() -> dict:
    return {"settings": EmbedSettings(), "limits": line.limits(5), "source": line.SOURCE}


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in parts(folder)}


def assert_same(folder: Path, other: Path) -> None:
    assert line.snapshot(folder) == line.snapshot(other)


# Cutting a shard into parts


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 3000), max_size=60),
    sequences=st.integers(1, 12),
    milliseconds=st.integers(0, 40),
    per_residue=st.integers(0, 5),
    per_square=st.integers(0, 5),
    longest=st.one_of(st.none(), st.integers(1, 1000)),
    residues=st.integers(1, 20_000),
)
def test_parts_keep_order_and_limits(
    lengths: list[int],
    sequences: int,
    milliseconds: int,
    per_residue: int,
    per_square: int,
    longest: int | None,
    residues: int,
) -> None:
    records = [Record(f"{i:03d}", "", b"A" * length) for i, length in enumerate(lengths)]
    # Microseconds per residue, nanoseconds per residue squared: costs are whole nanoseconds.
    cost = CostModel(per_residue * 1e-6, per_square * 1e-9, longest)
    found = list(cut_parts(iter(records), PartLimits(sequences, milliseconds / 1000, cost), residues))

    def fits(rows: list[Record]) -> bool:
        used = [min(len(row.sequence), longest or 3000) for row in rows]
        nanoseconds = sum(1000 * per_residue * length + per_square * length**2 for length in used)
        return (
            len(rows) <= sequences
            # The limit is in floating point: a cost that equals it may fall on either side.
            and nanoseconds <= milliseconds * 1e6 + 1
            and sum(len(row.sequence) for row in rows) <= residues
        )

    assert [row for rows in found for row in rows] == records
    for i, rows in enumerate(found):
        assert rows
        assert len(rows) == 1 or fits(rows)
        # No smaller than need be.
        if i + 1 < len(found):
            after = [*rows, found[i + 1][0]]
            used = [min(len(row.sequence), longest or 3000) for row in after]
            nanoseconds = sum(1000 * per_residue * length + per_square * length**2 for length in used)
            assert not fits(after) or abs(nanoseconds - milliseconds * 1e6) <= 1


def test_parts_are_cut_by_the_limits_alone(model: Path, shard: Path, tmp_path: Path) -> None:
    def ranges(name: str, **changes: object) -> list[tuple]:
        manifest = run(shard, changes.pop("model", model), tmp_path / name, **changes)
        return [(part["file"], part["sequences"]) for part in manifest["parts"]]

    by_number = ranges("a")
    assert [count for _, count in by_number] == [5] * 16
    other = line.rough_model(tmp_path / "model", seed=9)
    for name, changes in {"b": {"model": other}, "c": {"settings": EmbedSettings("bfloat16", "window", 7)}}.items():
        assert ranges(name, **changes) == by_number
    seconds = ranges("d", limits=line.limits(80, 1e-4))
    # 1e-4 s at 1e-6 s per residue and 1e-9 per residue squared: some 90 residues.
    lengths = [len(sequence) for sequence in line.read_fasta(shard).values()]
    expected, cost = [], 1.0
    for length in lengths:
        own = length * 1e-6 + length**2 * 1e-9
        if cost + own > 1e-4:
            expected.append(0)
            cost = 0.0
        expected[-1] += 1
        cost += own
    assert [count for _, count in seconds] == expected
    assert ranges("e", limits=line.limits(80, 1e-4), settings=EmbedSettings("float32", "skip")) == seconds


# What a shard's files hold


def test_manifest_adds_up(prepared: Line, undisturbed: Path, shard: Path) -> None:
    manifest = json.loads((undisturbed / "00000.json").read_text())
    sequences = line.read_fasta(shard)
    assert manifest["sequences"] == len(sequences) == 80
    assert manifest["residues"] == sum(map(len, sequences.values()))
    assert manifest["states"] == {"embedded": 72, "truncated": 8}
    assert manifest["skipped"] == {}
    content = hashlib.sha256("".join(f"{k}\n{v}\n" for k, v in sequences.items()).encode()).hexdigest()
    summary = json.loads((prepared.folder / "shards.json").read_text())
    assert manifest["content_sha256"] == content == summary["splits"]["train"][0]["content_sha256"]
    assert [part["file"] for part in manifest["parts"]] == [path.name for path in parts(undisturbed)]
    assert sum(part["sequences"] for part in manifest["parts"]) == 80
    for part in manifest["parts"]:
        path = undisturbed / part["file"]
        assert part["bytes"] == path.stat().st_size
        assert part["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        rows = line.rows(path, "id, state")
        assert part["rows"] == len(rows) == part["sequences"]
        assert (part["first_id"], part["last_id"]) == (rows[0][0], rows[-1][0])
        assert part["states"] == Counter(state for _, state in rows)
    assert set(line.snapshot(undisturbed)) == {"00000.json", *(part["file"] for part in manifest["parts"])}


def test_rows_as_duckdb_reads_them(undisturbed: Path, shard: Path, reference: HuggingFace) -> None:
    sequences = line.read_fasta(shard)
    found = line.rows(undisturbed / "*.parquet", "id, length, n_residues_used, state, taxid, n_members, embedding")
    assert [row[0] for row in found] == sorted(sequences)
    for name, length, used, state, taxid, n_members, vector in found:
        assert length == len(sequences[name])
        assert used == min(length, 62)
        assert state == ("truncated" if length > 62 else "embedded")
        assert (taxid, n_members) == (9606, 2)
        assert_within_one_ulp(np.array(vector, np.float16), reference.vector(sequences[name]))


def test_digests_are_refget(undisturbed: Path, shard: Path) -> None:
    sequences = line.read_fasta(shard)
    for name, digest in line.rows(undisturbed / "*.parquet", "id, digest"):
        sha = hashlib.sha512(sequences[name].encode()).digest()[:24]
        assert digest == "SQ." + base64.urlsafe_b64encode(sha).decode()


def test_metadata_hold_the_provenance(undisturbed: Path, model: Path) -> None:
    manifest = json.loads((undisturbed / "00000.json").read_text())
    for path, part in zip(parts(undisturbed), manifest["parts"], strict=True):
        about = json.loads(pq.read_metadata(path).metadata[b"embedome"])
        assert about["format"] == 2
        assert about["skipped"] == []
        assert about["fingerprint"] == part["fingerprint"]
        assert about["provenance"] == manifest["provenance"]
    provenance = manifest["provenance"]
    weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert provenance["model"]["weights_sha256"] == weights
    assert provenance["model"]["trained"] is False
    assert provenance["source"] == line.SOURCE
    assert (provenance["features"], provenance["layer"], provenance["pooling"]) == ("encoder", -1, ["mean"])
    assert provenance["per_residue"] is False
    assert (provenance["dtype"], provenance["long_sequences"], provenance["overlap"]) == ("float32", "truncate", 0)
    text = json.dumps(manifest)
    assert str(undisturbed) not in text
    assert str(model.parent) not in text


@pytest.mark.parametrize(("policy", "overlap"), [("window", 11), ("skip", 0)])
def test_long_sequences_in_a_shard(
    shard: Path, model: Path, reference: HuggingFace, tmp_path: Path, policy: str, overlap: int
) -> None:
    sequences = line.read_fasta(shard)
    long = {name for name, sequence in sequences.items() if len(sequence) > 62}
    # So few to a part that with "skip" some part keeps no row at all.
    manifest = run(shard, model, tmp_path, settings=EmbedSettings("float32", policy, overlap), limits=line.limits(1))
    found = line.vectors(tmp_path / "*.parquet")
    if policy == "skip":
        assert set(found) == set(sequences) - long
        assert manifest["skipped"] == {"too-long": 8}
        assert manifest["states"] == {"embedded": 72}
        told = [
            row
            for path in parts(tmp_path)
            for row in json.loads(pq.read_metadata(path).metadata[b"embedome"])["skipped"]
        ]
        assert {row["id"]: (row["length"], row["reason"]) for row in told} == {
            name: (len(sequences[name]), "too-long") for name in long
        }
        assert [part["first_id"] for part in manifest["parts"] if part["rows"] == 0] == [None] * 8
    else:
        assert set(found) == set(sequences)
        assert manifest["states"] == {"embedded": 72, "windowed": 8}
    for name, vector in found.items():
        assert_within_one_ulp(vector, reference.vector(sequences[name], policy, overlap))


@contextmanager
def encoder_that(change: Callable[[list[torch.Tensor], list[torch.Tensor]], None]) -> Iterator[None]:
    """Every model loaded meanwhile changes the hidden states of each batch, given its tokens, both by group."""

    def load(*arguments: object) -> object:
        loaded = load_model(*arguments)
        encode = loaded.encoder.stream

        def changed(groups: list[torch.Tensor]) -> list[torch.Tensor]:
            found = encode(groups)
            change(groups, found)
            return found

        loaded.encoder.stream = changed
        return loaded

    embedome_work.load_engine.cache_clear()
    try:
        with mock.patch.object(embedome_work, "load_model", load):
            yield
    finally:
        embedome_work.load_engine.cache_clear()


def sick_sequence(shard: Path, reference: HuggingFace) -> tuple[str, torch.Tensor]:
    """The id and the tokens of one sequence of the shard."""
    name, sequence = next(pair for pair in line.read_fasta(shard).items() if len(pair[1]) == 30)
    return name, torch.tensor(reference.tokenizer(sequence).input_ids)


def test_not_finite_is_never_written(shard: Path, model: Path, reference: HuggingFace, tmp_path: Path) -> None:
    sequences = line.read_fasta(shard)
    bad, sick = sick_sequence(shard, reference)

    def spoil(groups: list[torch.Tensor], found: list[torch.Tensor]) -> None:
        for tokens, hidden in zip(groups, found, strict=True):
            if tokens.shape[1] == len(sick):
                hidden[(tokens == sick).all(1)] = float("nan")

    with encoder_that(spoil):
        manifest = run(shard, model, tmp_path, limits=line.limits(40))
    assert manifest["skipped"] == {"non-finite": 1}
    assert sum(manifest["states"].values()) == 79
    found = line.vectors(tmp_path / "*.parquet")
    assert set(found) == set(sequences) - {bad}
    for name, vector in found.items():
        assert_within_one_ulp(vector, reference.vector(sequences[name]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_not_finite_in_a_narrow_type_is_made_in_float32(
    shard: Path, model: Path, reference: HuggingFace, tmp_path: Path, dtype: str
) -> None:
    if dtype == "int8" and not products_are_exact():
        pytest.skip("this processor has no VNNI")
    sequences = line.read_fasta(shard)
    bad, sick = sick_sequence(shard, reference)
    met = []

    def spoil(groups: list[torch.Tensor], found: list[torch.Tensor]) -> None:
        for tokens, hidden in zip(groups, found, strict=True):
            rows = (tokens == sick).all(1) if tokens.shape[1] == len(sick) else torch.tensor([False])
            if rows.any():
                met.append(hidden.dtype)
                if len(met) == 1:
                    hidden[rows, 3] = float("inf")

    narrow = EmbedSettings(dtype, per_residue=True, pooling=("mean", "max"))
    with encoder_that(spoil):
        manifest = run(shard, model, tmp_path / "out", limits=line.limits(40), settings=narrow)
    assert len(met) == 2
    assert met[1] == torch.float32
    assert manifest["skipped"] == {}
    assert sum(part["recomputed"] for part in manifest["parts"]) == 1
    found = line.vectors(tmp_path / "out" / "00000-?????.parquet")
    assert set(found) == set(sequences)
    assert_within_one_ulp(found[bad], reference.vector(sequences[bad]))
    ((states,),) = line.rows(tmp_path / "out" / "*.residues.parquet", "residue_embeddings", f"where id = '{bad}'")
    assert_within_one_ulp(np.array(states, np.float16), reference.residues(sequences[bad]))
    other = next(name for name in sequences if name != bad)
    assert np.abs(found[other] - reference.vector(sequences[other])).max() > 1e-4


def test_not_finite_in_float32_either_is_never_written(
    shard: Path, model: Path, reference: HuggingFace, tmp_path: Path
) -> None:
    sequences = line.read_fasta(shard)
    curable, lost = [name for name, sequence in sequences.items() if len(sequence) == 30][:2]
    tokens_of = {name: torch.tensor(reference.tokenizer(sequences[name]).input_ids) for name in (curable, lost)}

    def spoil(groups: list[torch.Tensor], found: list[torch.Tensor]) -> None:
        for tokens, hidden in zip(groups, found, strict=True):
            for name, sick in tokens_of.items():
                if tokens.shape[1] == len(sick) and (name == lost or hidden.dtype == torch.bfloat16):
                    hidden[(tokens == sick).all(1)] = float("nan")

    with encoder_that(spoil):
        manifest = run(shard, model, tmp_path, limits=line.limits(80), settings=EmbedSettings("bfloat16"))
    assert manifest["skipped"] == {"non-finite": 1}
    assert set(line.vectors(tmp_path / "*.parquet")) == set(sequences) - {lost}
    about = json.loads(pq.read_metadata(parts(tmp_path)[0]).metadata[b"embedome"])
    assert about["recomputed"] == [curable]
    assert [row["id"] for row in about["skipped"]] == [lost]


def test_out_of_memory_skips_what_does_not_fit_and_says_so(shard: Path, model: Path, tmp_path: Path) -> None:
    sequences = line.read_fasta(shard)
    large = {name for name, sequence in sequences.items() if len(sequence) > 50}

    def overflow(groups: list[torch.Tensor], _: list[torch.Tensor]) -> None:
        if sum(tokens.numel() for tokens in groups) > 52:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with encoder_that(overflow):
        manifest = run(shard, model, tmp_path / "out", limits=line.limits(40))
    assert manifest["skipped"] == {"out-of-memory": len(large)}
    assert set(line.vectors(tmp_path / "out" / "*.parquet")) == set(sequences) - large


def test_the_size_that_fits_is_remembered_from_part_to_part(model: Path, tmp_path: Path) -> None:
    shard = line.write_shard(tmp_path / "00000.fasta.gz", line.random_records(6, [20] * 60))
    failed = []

    def overflow(groups: list[torch.Tensor], _: list[torch.Tensor]) -> None:
        if sum(tokens.numel() for tokens in groups) > 100:
            failed.append(groups)
            raise torch.OutOfMemoryError("CUDA out of memory")

    with encoder_that(overflow):
        manifest = run(shard, model, tmp_path / "out", limits=line.limits(20))
    assert manifest["states"] == {"embedded": 60}
    # 20 sequences of 22 tokens, 10 and 5: in the first part alone.
    assert len(failed) == 3


def test_what_did_not_fit_is_embedded_where_there_is_more_memory(
    shard: Path, model: Path, undisturbed: Path, tmp_path: Path
) -> None:
    def overflow(groups: list[torch.Tensor], _: list[torch.Tensor]) -> None:
        if sum(tokens.numel() for tokens in groups) > 52:
            raise torch.OutOfMemoryError("CUDA out of memory")

    folder = tmp_path / "out"
    with encoder_that(overflow):
        small = run(shard, model, folder)
    before = stamps(folder)
    run(shard, model, folder)
    assert_same(folder, undisturbed)
    after = stamps(folder)
    lacking = {part["file"] for part in small["parts"] if part["skipped"]}
    assert 0 < len(lacking) < 16
    assert {name for name in after if before[name] != after[name]} == lacking


def fail_from(count: int, error: Exception) -> Callable[..., Callable]:
    """Have a function fail from its so manieth call on."""

    def wrap(function: Callable) -> Callable:
        calls = []

        def failing(*given: object, **named: object) -> object:
            calls.append(given)
            if len(calls) >= count:
                raise error
            return function(*given, **named)

        return failing

    return wrap


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()]
)
@pytest.mark.parametrize("place", ["engine.PooledVectors", "work.lay_out", "engine.PooledVectors.fetch"])
def test_a_part_that_does_not_fit_as_a_whole_is_told(
    shard: Path,
    model: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
) -> None:
    folder = tmp_path / "out"
    *owner, name = place.split(".")
    with monkeypatch.context() as patch:
        target = attrgetter(".".join(owner))(embedome)
        patch.setattr(target, name, fail_from(3, error)(getattr(target, name)))
        with pytest.raises(
            UserError, match=r"00000-00002\.parquet with its 5 sequences .* embed\.part_sequences"
        ) as told:
            run(shard, model, folder)
    assert "\n" not in str(told.value)
    kept = stamps(folder)
    assert list(kept) == ["00000-00000.parquet", "00000-00001.parquet"]
    run(shard, model, folder)
    assert_same(folder, undisturbed)
    assert kept.items() <= stamps(folder).items()


@pytest.mark.parametrize(
    ("dtype", "what"), [("float32", "the model does"), ("bfloat16", "the model in float32, .* does")]
)
def test_a_model_that_does_not_fit_is_told(
    shard: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, what: str
) -> None:
    def spoil(_: list[torch.Tensor], found: list[torch.Tensor]) -> None:
        found[0][:] = float("nan")

    with encoder_that(spoil):
        engine = embedome_work.build_engine

        def small(model: str, settings: EmbedSettings, machine: Machine) -> object:
            if settings.dtype == "float32":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return engine(model, settings, machine)

        monkeypatch.setattr(embedome_work, "build_engine", small)
        with pytest.raises(UserError, match=f"^{what} not fit .* more memory"):
            run(shard, model, tmp_path, settings=EmbedSettings(dtype))


# More than one vector


@pytest.mark.parametrize(("policy", "overlap"), [("truncate", 0), ("window", 11)])
def test_vectors_of_residues_and_several_poolings(
    shard: Path, model: Path, reference: HuggingFace, tmp_path: Path, policy: str, overlap: int
) -> None:
    sequences = line.read_fasta(shard)
    rich = EmbedSettings(
        long_sequences=policy, overlap=overlap, layer=1, pooling=("max", "first", "mean"), per_residue=True
    )
    run(shard, model, tmp_path / "out", settings=rich, limits=line.limits(30))
    first_layer = FirstLayer(reference)
    columns = "id, embedding, embedding_first, embedding_mean, n_residues_used"
    found = line.rows(tmp_path / "out" / "00000-?????.parquet", columns)
    assert [row[0] for row in found] == sorted(sequences)
    states = dict(line.rows(tmp_path / "out" / "*.residues.parquet", "id, residue_embeddings"))
    assert list(states) == sorted(sequences)
    for name, *vectors, used in found:
        maximum, first, mean = (np.array(vector, np.float16) for vector in vectors)
        exact = first_layer.residues(sequences[name], policy, overlap)
        assert len(exact) == used
        assert_within_one_ulp(np.array(states[name], np.float16), exact)
        assert_within_one_ulp(mean, exact.mean(0))
        assert_within_one_ulp(first, first_layer.hidden(sequences[name][:62])[0])
        if policy == "truncate" or len(sequences[name]) <= 62:
            assert_within_one_ulp(maximum, exact.max(0))


class FirstLayer(HuggingFace):
    """The reference's hidden states behind its first layer."""

    def __init__(self, reference: HuggingFace) -> None:
        self.model, self.tokenizer = reference.model, reference.tokenizer

    @torch.inference_mode()
    def hidden(self, sequence: str) -> np.ndarray:
        inputs = self.tokenizer(sequence, return_tensors="pt")
        return self.model(**inputs, output_hidden_states=True).hidden_states[1][0].numpy()


def test_residues_bound_the_size_of_a_part(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = line.write_shard(tmp_path / "00000.fasta.gz", line.random_records(3, [40] * 10))
    monkeypatch.setattr(embedome_parts, "PART_RESIDUE_BYTES", 4 * 32 * 130)  # 130 residues of 32 dimensions
    manifest = run(shard, model, tmp_path / "out", settings=EmbedSettings(per_residue=True), limits=line.limits(100))
    assert [part["sequences"] for part in manifest["parts"]] == [3, 3, 3, 1]
    assert len(run(shard, model, tmp_path / "plain", limits=line.limits(100))["parts"]) == 1


@pytest.mark.parametrize("damage", ["missing", "flipped", "other"])
def test_a_damaged_file_of_residues_is_made_again(model: Path, shard: Path, tmp_path: Path, damage: str) -> None:
    rich = {"settings": EmbedSettings(per_residue=True)}
    run(shard, model, tmp_path / "expected", **rich)
    shutil.copytree(tmp_path / "expected", tmp_path / "out")
    path = sorted((tmp_path / "out").glob("*.residues.parquet"))[2]
    before = stamps(tmp_path / "out")
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        line.flip(path, path.stat().st_size // 2)
    else:
        shutil.copy(sorted(tmp_path.glob("out/*.residues.parquet"))[3], path)
    (tmp_path / "out" / "00000.json").unlink()
    run(shard, model, tmp_path / "out", **rich)
    assert_same(tmp_path / "out", tmp_path / "expected")
    after = stamps(tmp_path / "out")
    # The part beside it, which names its digest, is right again.
    assert {name for name in after if before[name] != after[name]} == {path.name}


def test_residues_no_longer_asked_for_are_removed(model: Path, shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    run(shard, model, tmp_path / "out", settings=EmbedSettings(per_residue=True))
    run(shard, model, tmp_path / "out")
    assert_same(tmp_path / "out", undisturbed)


# What it cost


def test_metrics_tell_what_was_done(prepared: Line, model: Path, tmp_path: Path) -> None:
    shard = prepared.fasta("train")
    manifest = tmp_path / "train" / "00000.json"
    extra = {"shards": prepared.folder / "shards.json", "metrics": tmp_path / "metrics.jsonl"}
    before = peak_memory()
    embed_shard(shard, model, manifest, **arguments(), **extra)
    after = peak_memory()
    (text,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(text)
    sequences = line.read_fasta(shard).values()
    used = [min(len(sequence), 62) for sequence in sequences]
    assert (row["shard"], row["sequences"], row["parts"]) == ("00000", len(sequences), 16)
    assert row["residues"] == sum(map(len, sequences))
    assert row["residues_embedded"] == sum(used)
    # 2 layers of 4 matrices of 32 x 32 and two of 32 x 64, and attention over 32 dimensions.
    tokens = np.array(used) + 2
    operations = (tokens * 2 * 2 * (4 * 32 * 32 + 2 * 32 * 64) + tokens**2 * 2 * 4 * 32).sum()
    assert row["flop_per_second"] * row["seconds"]["device"] == pytest.approx(operations, rel=0.01)
    assert set(row["seconds"]) == {"reading", "device", "writing", "total"}
    assert all(value > 0 for value in row["seconds"].values())
    assert row["residues_per_second"] * row["seconds"]["device"] == pytest.approx(sum(used), rel=0.01)
    fraction = row["flop_per_second"] / row["gemm_peak_flop_per_second"]
    assert 0 < row["fraction_of_gemm_peak"] == pytest.approx(fraction, abs=1e-4)
    assert row["gemm_peak_flop_per_second"] > 1e8
    assert row["token_budget"] == 4096
    assert before <= row["peak_memory_bytes"]["host"] <= after

    embed_shard(shard, model, manifest, **arguments(), **extra)
    again = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert again["seconds"]["device"] == 0
    assert "residues_per_second" not in again


GROW = """
from embedome.common.process import peak_memory
before = peak_memory()
block = bytearray(b"x") * 200_000_000
del block
print(peak_memory() - before)
"""


def test_peak_memory_is_that_of_the_fullest_moment() -> None:
    assert 1.9e8 < int(output_of(GROW)) < 2.6e8


# The Parquet format


@pytest.fixture(scope="module")
def large_part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of 20,000 rows with made-up vectors."""
    n = 20_000
    path = tmp_path_factory.mktemp("format") / "part.parquet"
    generator = np.random.default_rng(1)
    values = generator.normal(size=(n, 16)).astype(np.float16)
    table = pa.table(
        {
            "id": [f"P{i:05d}" for i in range(n)],
            "digest": [f"SQ.{generator.bytes(12).hex()}" for _ in range(n)],
            "length": np.arange(n, dtype=np.int32),
            "n_residues_used": np.arange(n, dtype=np.int32),
            "state": ["embedded"] * n,
            "taxid": pa.array([9606, None] * (n // 2), pa.int32()),
            "n_members": pa.array([1] * n, pa.int32()),
            "embedding": vector_array(values),
        }
    )
    schema = embedding_schema(16)
    write_part(path, table.cast(schema), embedding_metadata({"pooling": ["mean"]}, fingerprint="f"))
    np.save(path.with_suffix(".npy"), values)
    return path


def test_schema_of_a_part(undisturbed: Path) -> None:
    vector = pa.list_(pa.field("element", pa.float16(), nullable=False), 32)
    assert pq.read_schema(parts(undisturbed)[0]).remove_metadata() == pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("digest", pa.string(), nullable=False),
            pa.field("length", pa.int32(), nullable=False),
            pa.field("n_residues_used", pa.int32(), nullable=False),
            pa.field("state", pa.string(), nullable=False),
            pa.field("taxid", pa.int32()),
            pa.field("n_members", pa.int32()),
            pa.field("embedding", vector, nullable=False),
        ]
    )


def test_layout_of_a_part(large_part: Path) -> None:
    metadata = pq.read_metadata(large_part)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [8192, 8192, 3616]
    first = None
    for i in range(metadata.num_row_groups):
        columns = {metadata.row_group(i).column(j).path_in_schema: metadata.row_group(i).column(j) for j in range(8)}
        assert {column.compression for column in columns.values()} == {"ZSTD"}
        vectors = columns.pop("embedding.list.element")
        assert "PLAIN" in vectors.encodings
        assert not {"PLAIN_DICTIONARY", "RLE_DICTIONARY", "BYTE_STREAM_SPLIT"} & set(vectors.encodings)
        assert not vectors.has_dictionary_page
        assert vectors.statistics is None or not vectors.statistics.has_min_max
        ids = columns["id"].statistics
        assert (ids.min, ids.max) == (f"P{8192 * i:05d}", f"P{min(8192 * i + 8191, 19_999):05d}")
        assert first is None or first < ids.min
        first = ids.max
        assert columns["length"].statistics.min == 8192 * i
        assert all(column.has_offset_index for column in [vectors, *columns.values()])
        assert columns["id"].has_column_index


def test_duckdb_reads_the_vectors_exactly(large_part: Path) -> None:
    found = line.vectors(large_part)
    assert list(found) == [f"P{i:05d}" for i in range(20_000)]
    assert np.array_equal(np.stack(list(found.values())), np.load(large_part.with_suffix(".npy")))


@pytest.mark.parametrize("column", range(8))
def test_a_flipped_bit_in_a_page_is_found(large_part: Path, tmp_path: Path, column: int) -> None:
    path = shutil.copy(large_part, tmp_path / "flipped.parquet")
    line.flip(path, line.page_byte(path, 1, column))
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(path, page_checksum_verification=True).read()
    with pytest.raises(UserError, match=r"flipped\.parquet: damaged") as excinfo:
        read_rows(path)
    assert "\n" not in str(excinfo.value)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 20_000), max_size=6))
def test_bytes_do_not_depend_on_how_rows_arrive(large_part: Path, cuts: list[int]) -> None:
    rows = pq.ParquetFile(large_part).read(columns=["id", "state"])
    bounds = [0, *sorted(cuts), len(rows)]

    def written(tables: Iterable[pa.Table]) -> bytes:
        stream = io.BytesIO()
        with ParquetSink(stream, rows.schema, 8192, use_dictionary=["state"]) as sink:
            for table in tables:
                sink.write(table)
        return stream.getvalue()

    assert written(rows.slice(a, b - a) for a, b in pairwise(bounds)) == written([rows])


@settings(max_examples=30, deadline=None)
@example(wanted={8191})
@example(wanted={8192})
@example(wanted={19_999})
@given(wanted=st.sets(st.integers(-5, 20_100), max_size=12))
def test_rows_are_found_by_id(large_part: Path, wanted: set[int]) -> None:
    ids = sorted(f"P{i:05d}" for i in wanted)
    found = find_rows(large_part, ids)
    assert found["id"].to_pylist() == [name for name in ids if "P00000" <= name <= "P19999" and len(name) == 6]
    assert found["length"].to_pylist() == sorted(i for i in wanted if 0 <= i < 20_000)
    values = np.load(large_part.with_suffix(".npy"))
    assert np.array_equal(vector_matrix(found["embedding"]), values[found["length"].to_numpy()])


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), max_size=8), takes=st.lists(st.integers(0, 12), max_size=12))
def test_rows_are_taken_in_order(sizes: list[int], takes: list[int]) -> None:
    schema = pa.schema([("n", pa.int64())])
    bounds = np.cumsum([0, *sizes]).tolist()
    reader = RowReader((pa.table({"n": list(range(a, b))}, schema) for a, b in pairwise(bounds)), schema)
    left = list(range(bounds[-1]))
    for count in takes:
        assert reader.take(count)["n"].to_pylist() == left[:count]
        left = left[count:]


# Resuming


def test_a_second_run_recomputes_nothing(model: Path, shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / "again")
    (folder / "00000.json").unlink()
    parts(folder)[3].unlink()
    before = stamps(folder)
    run(shard, model, folder)
    assert_same(folder, undisturbed)
    after = stamps(folder)
    assert len(after) == 16
    assert before.items() <= after.items()


def rewrite(change: Callable[[list[tuple[str, str]]], None]) -> Callable[[Path, Path, Path], tuple]:
    def make(shard: Path, model: Path, scratch: Path) -> tuple:
        records = [(head[1:], seq) for head, seq in headers(shard)]
        change(records)
        text = "".join(f">{head}\n{seq}\n" for head, seq in records)
        (scratch / "changed.fasta.gz").write_bytes(gzip.compress(text.encode()))
        return scratch / "changed.fasta.gz", model, {}

    return make


def headers(shard: Path) -> list[tuple[str, str]]:
    lines = gzip.decompress(shard.read_bytes()).decode().splitlines()
    return list(zip(lines[::2], lines[1::2], strict=True))


def other_description(records: list[tuple[str, str]]) -> None:
    head, sequence = records[7]
    records[7] = (head.replace("TaxID=9606", "TaxID=10090"), sequence)


def other_sequence(records: list[tuple[str, str]]) -> None:
    head, sequence = records[7]
    records[7] = (head, "W" + sequence[1:])


def new_weights(shard: Path, model: Path, scratch: Path) -> tuple:
    """The same directory, with other weights in it."""
    line.rough_model(scratch / "model", seed=77)
    return shard, scratch / "model", {}


def new_settings(**changes: object) -> Callable[[Path, Path, Path], tuple]:
    return lambda shard, model, _: (shard, model, changes)


@pytest.mark.parametrize(
    ("make", "n_changed"),
    [
        (rewrite(other_description), 1),
        (rewrite(other_sequence), 1),
        (new_weights, 16),
        (new_settings(settings=EmbedSettings("bfloat16")), 16),
        (new_settings(settings=EmbedSettings("float32", "window", 3)), 16),
        (new_settings(source={"release": "next"}), 16),
    ],
)
def test_what_changes_the_numbers_recomputes(
    model: Path, shard: Path, tmp_path: Path, make: Callable[..., tuple], n_changed: int
) -> None:
    here = shutil.copytree(model, tmp_path / "model")
    run(shard, here, tmp_path / "out")
    before = stamps(tmp_path / "out")
    scratch = tmp_path
    new_shard, new_model, changes = make(shard, here, scratch)
    run(new_shard, new_model, tmp_path / "out", **changes)
    after = stamps(tmp_path / "out")
    assert sum(before[name] != after[name] for name in before) == n_changed
    run(new_shard, new_model, tmp_path / "fresh", **changes)
    assert_same(tmp_path / "out", tmp_path / "fresh")


def test_new_weights_in_the_same_folder_are_used(model: Path, shard: Path, tmp_path: Path) -> None:
    here = shutil.copytree(model, tmp_path / "model")
    run(shard, here, tmp_path / "out")
    line.rough_model(here, seed=77)
    run(shard, here, tmp_path / "out")
    reference = HuggingFace(here)
    found = line.vectors(tmp_path / "out" / "*.parquet")
    for name, sequence in line.read_fasta(shard).items():
        assert_within_one_ulp(found[name], reference.vector(sequence))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_file(path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"]}), path)


def flip(position: int) -> Callable[[Path], None]:
    return lambda path: line.flip(path, position)


def flip_in_page(column: int) -> Callable[[Path], None]:
    return lambda path: line.flip(path, line.page_byte(path, 0, column))


@pytest.mark.parametrize(
    "damage",
    [truncate, empty, other_file, flip(-1), flip(-6), *map(flip_in_page, (0, 1, 2, 3, 4, 7))],
)
def test_damaged_parts_are_recomputed(
    model: Path, shard: Path, undisturbed: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / "damaged")
    victim = parts(folder)[4]
    damage(victim)
    before = stamps(folder)
    run(shard, model, folder)
    assert_same(folder, undisturbed)
    after = stamps(folder)
    assert [name for name in before if before[name] != after[name]] == [victim.name]


def test_parts_of_another_cut_are_removed(model: Path, shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    run(shard, model, folder, limits=line.limits(3))
    assert len(parts(folder)) == 27
    bystanders = [folder / name for name in ("00001-00000.parquet", "000000-00009.parquet", "00000.txt")]
    for path in bystanders:
        path.write_bytes(b"of another shard")
    run(shard, model, folder)
    for path in bystanders:
        path.unlink()
    assert_same(folder, undisturbed)


def test_what_killed_writers_left_is_swept_away(model: Path, shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Of parts that are not written again, too."""
    folder = shutil.copytree(undisturbed, tmp_path / "out")
    left = [".00000-00003.parquet.0123456789ab.tmp", ".00000-00004.residues.parquet.0123456789ab.tmp"]
    others = [folder / ".00001-00003.parquet.0123456789ab.tmp", folder / ".00000-00003.parquet.tmp"]
    for path in [*(folder / name for name in left), *others]:
        path.write_bytes(b"half of it")
    run(shard, model, folder)
    for path in others:
        path.unlink()
    assert_same(folder, undisturbed)


def test_an_empty_shard_has_a_manifest_and_no_part(model: Path, prepared: Line, tmp_path: Path) -> None:
    manifest = run(prepared.fasta("val"), model, tmp_path)
    assert manifest["sequences"] == manifest["residues"] == 0
    assert manifest["parts"] == []
    assert manifest["states"] == manifest["skipped"] == {}
    assert manifest["content_sha256"] == hashlib.sha256(b"").hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["00000.json"]
    assert json.loads((tmp_path / "00000.json").read_text()) == manifest


# Faulty shards


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b">a\nACD\n>b\nAC-D\n", r"record 2: invalid-residue"),
        (b">a\nACD\n>b\n", r"record 2: empty-sequence"),
        (b">\nACD\n", r"record 1: no-id"),
        (b"ACD\n", r"expected a FASTA header"),
    ],
)
def test_a_faulty_record_in_a_shard_is_refused(model: Path, tmp_path: Path, text: bytes, what: str) -> None:
    shard = tmp_path / "bad.fasta.gz"
    shard.write_bytes(gzip.compress(text))
    with pytest.raises(UserError, match=what) as excinfo:
        run(shard, model, tmp_path / "out")
    assert str(shard) in str(excinfo.value)
    assert "\n" not in str(excinfo.value)
    assert not (tmp_path / "out" / "00000.json").exists()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.99])
def test_a_cut_shard_is_refused(model: Path, shard: Path, tmp_path: Path, share: float) -> None:
    data = shard.read_bytes()
    (tmp_path / "cut.fasta.gz").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"cut\.fasta\.gz: "):
        run(tmp_path / "cut.fasta.gz", model, tmp_path / "out")
    assert not (tmp_path / "out" / "00000.json").exists()


def test_a_missing_shard_is_refused_and_a_plain_one_read(
    model: Path, shard: Path, undisturbed: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"absent\.fasta\.gz: no such file"):
        run(tmp_path / "absent.fasta.gz", model, tmp_path / "out")
    (tmp_path / "plain.fasta").write_bytes(gzip.decompress(shard.read_bytes()))
    run(tmp_path / "plain.fasta", model, tmp_path / "plain")
    assert_same(tmp_path / "plain", undisturbed)


# Several processes, or threads


def test_laying_out_embedding_and_writing_go_on_at_once(
    model: Path, shard: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is run once the next is read and laid out, and fetched and written once the next is being run."""
    laid_out, running = ([Event() for _ in range(17)] for _ in range(2))
    lay_out, run_part, finish = PartPipeline.lay_out, PartPipeline.run_part, PartPipeline.finish
    for events in (laid_out, running):
        events[16].set()  # there are 16 parts

    def number_of(part: embedome_parts.Part) -> int:
        return int(part.path.stem.split("-")[1])

    def lay_out_and_tell(self: PartPipeline, part: embedome_parts.Part) -> object:
        found = lay_out(self, part)
        laid_out[number_of(part)].set()
        return found

    def run_late(self: PartPipeline, part: embedome_parts.Part, layout: object) -> object:
        running[number_of(part)].set()
        assert laid_out[number_of(part) + 1].wait(20)
        return run_part(self, part, layout)

    def finish_late(self: PartPipeline, task: tuple[embedome_parts.Part, object]) -> object:
        assert running[number_of(task[0]) + 1].wait(20)
        return finish(self, task)

    monkeypatch.setattr(PartPipeline, "lay_out", lay_out_and_tell)
    monkeypatch.setattr(PartPipeline, "run_part", run_late)
    monkeypatch.setattr(PartPipeline, "finish", finish_late)
    manifest = embed_records(shard_records(shard), model, tmp_path / "00000.json", **arguments())
    assert manifest == json.loads((undisturbed / "00000.json").read_text())


def test_two_workers_give_the_same_bytes(model: Path, shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    manifest = embed_records(
        shard_records(shard), model, tmp_path / "00000.json", **arguments(), machine=Machine(workers=2), total=80
    )
    assert manifest == json.loads((undisturbed / "00000.json").read_text())
    expected = line.snapshot(undisturbed)
    del expected["00000.json"]
    assert line.snapshot(tmp_path) == expected


def test_a_killed_run_of_two_workers_goes_on(model: Path, shard: Path, tmp_path: Path, processes: Processes) -> None:
    folder, single = tmp_path / "killed", line.limits(1)
    run(shard, model, tmp_path / "expected", limits=single)
    both = work(shard, model, folder, limits=single, machine=Machine(workers=2))
    assert processes.kill(processes.start(both), 0.0, lambda: len(parts(folder)) >= 3)
    kept = stamps(folder)
    assert len(kept) >= 3
    assert not (folder / "00000.json").exists()
    both()
    assert_same(folder, tmp_path / "expected")
    assert kept.items() <= stamps(folder).items()


def test_two_runs_at_once_give_the_same_bytes(
    model: Path, shard: Path, undisturbed: Path, tmp_path: Path, processes: Processes
) -> None:
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        both = [processes.start(work(shard, model, folder)) for _ in range(2)]
        for process in both:
            process.join(60)
        assert [process.exitcode for process in both] == [0, 0]
        assert_same(folder, undisturbed)


def test_an_attempt_changes_no_byte_on_a_cpu(tmp_path: Path) -> None:
    # As wide as ESM-1nv: in bfloat16 narrower layers give the same numbers in batches of any size.
    sizes = {"layers": 1, "hidden": 768, "heads": 12, "feed_forward": 64, "positions": 256}
    wide = line.rough_model(tmp_path / "model", sizes=sizes)
    lengths = random.Random(3).choices(range(40, 200), k=45)
    shard = line.write_shard(tmp_path / "00000.fasta.gz", line.random_records(4, lengths))
    for attempt in (1, 2):
        machine = Machine(attempt=attempt)
        run(
            shard,
            wide,
            tmp_path / str(attempt),
            settings=EmbedSettings("bfloat16"),
            limits=line.limits(45),
            machine=machine,
        )
    assert_same(tmp_path / "1", tmp_path / "2")


def test_a_machine_knows_its_attempt(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.of_job({"attempt": 3})
    assert (machine.attempt, Machine.of_job({}).attempt) == (3, 1)
    found = []
    monkeypatch.setattr(embedome_work, "Engine", lambda *_, **options: found.append(options["attempt"]))
    embedome_work.build_engine(str(model), EmbedSettings(), machine)
    assert found == [3]


@pytest.mark.parametrize("per_residue", [False, True])
@pytest.mark.parametrize("moment", ["part_tables", "embedding_metadata"])
def test_a_part_that_another_job_has_written_meanwhile_stays(
    model: Path, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, per_residue: bool
) -> None:
    """A job that was taken for dead may have told its digests already."""
    rich = {"settings": EmbedSettings(per_residue=per_residue)}
    run(shard, model, tmp_path / "first", **rich)
    (tmp_path / "late").mkdir()
    write, step = embedome_work.write, getattr(embedome_parts, moment)

    def late(part: embedome_parts.Part, result: embedome_parts.EmbeddedPart) -> None:
        """Write other bytes, as other batches give."""
        result.embedded.vectors["mean"] += 1
        for states in result.embedded.residues or []:
            states += 1

        def meanwhile(*given: object) -> object:
            for path in (tmp_path / "first").glob(f"{part.path.stem}.*"):
                shutil.copy(path, tmp_path / "late")
            return step(*given)

        monkeypatch.setattr(embedome_parts, moment, meanwhile)
        write(part, result)

    monkeypatch.setattr(embedome_work, "write", late)
    run(shard, model, tmp_path / "late", **rich)
    assert_same(tmp_path / "late", tmp_path / "first")


def test_killed_runs_go_on_where_they_were(model: Path, tmp_path: Path, processes: Processes) -> None:
    rng = random.Random(5)
    shard = line.write_shard(
        tmp_path / "00000.fasta.gz", line.random_records(2, [rng.randint(1, 70) for _ in range(96)])
    )
    limits = line.limits(2)
    run(shard, model, tmp_path / "expected", limits=limits)
    folder = tmp_path / "killed"
    kills, done = 0, {}
    while True:
        goal = len(done) + rng.randint(0, 2)
        killed = processes.kill(
            processes.start(work(shard, model, folder, limits=limits)),
            rng.uniform(0, 0.02),
            lambda goal=goal: len(parts(folder)) >= goal,
        )
        after = stamps(folder)
        assert done.items() <= after.items()
        if not killed:
            break
        kills += 1
        done = after
        assert not (folder / "00000.json").exists() or len(done) == 48
    assert kills >= 20
    assert_same(folder, tmp_path / "expected")


PEAK = """
from embedome.embedding.cost import CostModel
from embedome.embedding.embed import embed_shard
from embedome.common.process import peak_memory
from embedome.embedding.settings import PartLimits, EmbedSettings
settings, limits = EmbedSettings(per_residue=True), PartLimits(1000, 1e9, CostModel(1e-6, 1e-9))
embed_shard(*sys.argv[1:], settings=settings, limits=limits, source={})
print(peak_memory())
"""


def test_memory_is_that_of_a_part_whatever_the_shard(model: Path, tmp_path: Path) -> None:
    peaks, counts = [], (4_000, 40_000)
    for count in counts:
        records = line.random_records(3, [MAX_RESIDUES] * count)
        shard = line.write_shard(tmp_path / "00000.fasta.gz", records)
        manifest = tmp_path / str(count) / "00000.json"
        peaks.append(int(output_of(PEAK, shard, model, manifest)))
        assert len(list(manifest.parent.glob("*.residues.parquet"))) == count // 1000
    written = (counts[1] - counts[0]) * MAX_RESIDUES * line.SIZE["hidden"] * 2
    assert peaks[1] - peaks[0] < written / 4, peaks


def test_unreadable_weights_end_in_one_line_and_keep_finished_parts(
    model: Path, shard: Path, undisturbed: Path, tmp_path: Path
) -> None:
    copy, folder = tmp_path / "model", tmp_path / "out"
    shutil.copytree(model, copy)
    shutil.copytree(undisturbed, folder)
    kept = stamps(folder)
    missing = sorted(parts(folder))[1]
    missing.unlink()
    del kept[missing.name]
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"\xff" * 100):
        weights.write_bytes(damage)
        with pytest.raises(UserError, match=r"model\.safetensors: not a readable safetensors file") as error:
            run(shard, copy, folder)
        assert len(str(error.value).splitlines()) == 1
        assert stamps(folder) == kept
    weights.write_bytes(whole)
    run(shard, copy, folder)
    assert_same(folder, undisturbed)
    assert kept.items() <= stamps(folder).items()


def test_sigterm_ends_a_run_cleanly_and_the_next_goes_on(model: Path, tmp_path: Path, processes: Processes) -> None:
    rng = random.Random(7)
    shard = line.write_shard(
        tmp_path / "00000.fasta.gz", line.random_records(2, [rng.randint(1, 70) for _ in range(96)])
    )
    limits = line.limits(2)
    run(shard, model, tmp_path / "expected", limits=limits)
    folder = tmp_path / "stopped"
    stops = 0
    while (goal := len(parts(folder)) + 3) < 48:
        process = processes.start(partial(stoppable, work(shard, model, folder, limits=limits)))
        deadline = time.monotonic() + 60
        while process.is_alive() and len(parts(folder)) < goal:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        before = parts(folder)
        begin = time.monotonic()
        process.terminate()
        process.join(60)
        assert time.monotonic() - begin < 10
        if process.exitcode == 0:
            break
        assert process.exitcode == 128 + signal.SIGTERM
        stops += 1
        assert set(before) <= set(parts(folder))
        # No temporary file is left, which after a kill there may be.
        assert set(folder.iterdir()) == set(parts(folder))
    assert stops >= 4
    run(shard, model, folder, limits=limits)
    assert_same(folder, tmp_path / "expected")


def stoppable(work: Callable[[], object]) -> None:
    exit_on_sigterm()
    work()


def write_slowly(work: Callable[[], object], begun: Path, seconds: float) -> None:
    """Work, with a disk that takes long for each part."""
    write = embedome_work.write

    def slow(part: embedome_parts.Part, result: embedome_parts.EmbeddedPart) -> None:
        with begun.open("a") as handle:
            handle.write(f"{part.path.name}\n")
        time.sleep(seconds)
        write(part, result)

    with mock.patch.object(embedome_work, "write", slow):
        stoppable(work)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sigterm_waits_for_one_write_at_the_most(
    model: Path, shard: Path, tmp_path: Path, processes: Processes
) -> None:
    folder, begun = tmp_path / "out", tmp_path / "begun"
    process = processes.start(partial(write_slowly, work(shard, model, folder), begun, 2))
    wait_for(begun.exists)
    time.sleep(1)  # the next part is embedded meanwhile, and waits
    process.terminate()
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    assert begun.read_text().splitlines() == ["00000-00000.parquet"]
    assert [path.name for path in folder.iterdir()] == ["00000-00000.parquet"]


def sleep_in_workers(files: list[Path]) -> None:
    """Have a worker for each file write it, and then take long."""
    code = [f"open({str(path)!r}, 'w').close() or __import__('time').sleep(60)" for path in files]
    with process_pool(len(files), "embedome.sequences.headers") as pool:
        list(map_in_order(pool, eval, code, len(files)))


def test_sigterm_ends_workers_whatever_they_do(tmp_path: Path, processes: Processes) -> None:
    begun = [tmp_path / "one", tmp_path / "two"]
    process = processes.start(partial(stoppable, partial(sleep_in_workers, begun)))
    try:
        wait_for(lambda: all(path.exists() for path in begun))
        process.terminate()
        process.join(20)
        assert process.exitcode == 128 + signal.SIGTERM
    finally:
        process.kill()


def test_a_full_disk_keeps_finished_parts_and_more_space_mends_it(
    model: Path, shard: Path, undisturbed: Path, small_disk: Path
) -> None:
    pages = sum(-(-path.stat().st_size // 4096) for path in parts(undisturbed))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((1 << 20) - 4096 * (pages // 2)))
    folder = small_disk / "train"
    with pytest.raises(OSError, match=r"No space left on device: .*/train/"):
        run(shard, model, folder)
    finished = stamps(folder)
    assert 0 < len(finished) < len(parts(undisturbed))
    assert set(line.snapshot(folder)) == set(finished)
    ballast.unlink()
    run(shard, model, folder)
    assert_same(folder, undisturbed)
    assert stamps(folder).items() >= finished.items()
