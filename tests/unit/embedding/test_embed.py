"""The embed stage on whole shards: their files and manifests, what they cost, and runs that are killed or fail."""

import gzip
import hashlib
import json
import random
import shutil
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from embedome.common.errors import UserError
from embedome.common.process import peak_memory
from embedome.embedding.embed import embed_shard
from embedome.embedding.part_pipeline import Machine
from embedome.embedding.settings import EmbedSettings
from helpers import small_run as line
from helpers.embedded_shard import arguments, assert_same, parts, run, stamps, work
from helpers.processes import stoppable
from helpers.small_run import HuggingFace, Line, Processes, assert_within_one_ulp

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
@pytest.mark.slow
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


def test_an_empty_shard_has_a_manifest_and_no_part(model: Path, prepared: Line, tmp_path: Path) -> None:
    manifest = run(prepared.fasta("val"), model, tmp_path)
    assert manifest["sequences"] == manifest["residues"] == 0
    assert manifest["parts"] == []
    assert manifest["states"] == manifest["skipped"] == {}
    assert manifest["content_sha256"] == hashlib.sha256(b"").hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["00000.json"]
    assert json.loads((tmp_path / "00000.json").read_text()) == manifest


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
    """The reference's hidden states after its first layer."""

    def __init__(self, reference: HuggingFace) -> None:
        self.model, self.tokenizer = reference.model, reference.tokenizer

    @torch.inference_mode()
    def hidden(self, sequence: str) -> np.ndarray:
        inputs = self.tokenizer(sequence, return_tensors="pt")
        return self.model(**inputs, output_hidden_states=True).hidden_states[1][0].numpy()


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


def test_a_peak_that_does_not_fit_costs_no_manifest(
    shard: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(device: torch.device, dtype: torch.dtype) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("embedome.embedding.benchmark.gemm_peak", full)
    embed_shard(shard, model, tmp_path / "00000.json", **arguments(), metrics=tmp_path / "metrics.jsonl")
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["gemm_peak_flop_per_second"] is None
    assert row["fraction_of_gemm_peak"] is None
    assert row["residues_per_second"] > 0


def test_float32_on_a_gpu_is_warned_of(
    shard: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("embedome.engine.engine.use_device", lambda device: torch.device("cpu"))
    for name, machine in (("cpu", Machine()), ("gpu", Machine("cuda"))):
        caplog.clear()
        embed_shard(shard, model, tmp_path / name / "00000.json", **arguments(), machine=machine)
        assert ("float32 on a GPU is several times slower" in caplog.text) == (name == "gpu")


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


# Two runs at once, and runs that end early


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
