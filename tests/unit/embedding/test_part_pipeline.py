"""What is done to each part: vectors that are not finite, memory that runs out, and several parts at once."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from pathlib import Path
from threading import Barrier, Event
from unittest import mock

import embedome
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from embedome.common.errors import UserError
from embedome.common.log import Progress
from embedome.embedding import part_pipeline as embedome_work
from embedome.embedding import parts as embedome_parts
from embedome.embedding.cost import CostModel
from embedome.embedding.embed import embed_records, shard_records
from embedome.embedding.part_pipeline import EmbedJob, FinishedPart, LaidOutPart, Machine, RunningPart
from embedome.embedding.settings import EmbedSettings, PartLimits
from embedome.engine.engine import Engine
from embedome.engine.pooling import ResidueStates
from embedome.models.directory import load_model
from embedome.models.encoders.int8 import products_are_exact
from helpers import small_run as line
from helpers.embedded_shard import arguments, assert_same, parts, run, stamps, work
from helpers.processes import output_of, stoppable, wait_for
from helpers.small_run import MAX_RESIDUES, HuggingFace, Processes, assert_within_one_ulp


@contextmanager
def encoder_that(change: Callable[[list[torch.Tensor], list[torch.Tensor]], None]) -> Iterator[None]:
    """Every model loaded meanwhile changes the hidden states of each batch, given its tokens, both by group."""

    def load(*arguments: object, **others: object) -> object:
        loaded = load_model(*arguments, **others)
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


# Vectors that are not finite


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


# Memory


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


def test_each_part_begins_with_full_batches(model: Path, tmp_path: Path) -> None:
    shard = line.write_shard(tmp_path / "00000.fasta.gz", line.random_records(6, [20] * 60))
    failed = []

    def overflow(groups: list[torch.Tensor], _: list[torch.Tensor]) -> None:
        if sum(tokens.numel() for tokens in groups) > 100:
            failed.append(groups)
            raise torch.OutOfMemoryError("CUDA out of memory")

    with encoder_that(overflow):
        manifest = run(shard, model, tmp_path / "out", limits=line.limits(20))
    assert manifest["states"] == {"embedded": 60}
    # 20 sequences of 22 tokens, 10 and 5: in each of three parts, as those of the next may be shorter.
    assert len(failed) == 9


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
@pytest.mark.parametrize(
    "place", ["engine.engine.PooledVectors", "embedding.part_pipeline.lay_out", "engine.engine.PooledVectors.fetch"]
)
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


PEAK = """
from embedome.embedding.cost import CostModel
from embedome.embedding.embed import embed_shard
from embedome.common.process import peak_memory
from embedome.embedding.settings import PartLimits, EmbedSettings
settings, limits = EmbedSettings(per_residue=True), PartLimits(1000, 1e9, CostModel(1e-6, 1e-9))
embed_shard(*sys.argv[1:], settings=settings, limits=limits, source={})
print(peak_memory())
"""


@pytest.mark.slow
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


# The model and the machine that it runs on


@pytest.mark.slow
def test_new_weights_in_the_same_folder_are_used(model: Path, shard: Path, tmp_path: Path) -> None:
    here = shutil.copytree(model, tmp_path / "model")
    run(shard, here, tmp_path / "out")
    line.rough_model(here, seed=77)
    run(shard, here, tmp_path / "out")
    reference = HuggingFace(here)
    found = line.vectors(tmp_path / "out" / "*.parquet")
    for name, sequence in line.read_fasta(shard).items():
        assert_within_one_ulp(found[name], reference.vector(sequence))


@pytest.mark.slow
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


def test_a_job_writes_in_each_of_its_threads() -> None:
    assert (Machine.of_job({}, 4).writers, Machine.of_job({}).writers) == (4, 1)


# Several processes, or threads


def test_laying_out_embedding_and_writing_go_on_at_once(
    model: Path, shard: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is run once the next is read and laid out, and fetched and written once the next is being run."""
    laid_out, running = ([Event() for _ in range(17)] for _ in range(2))
    lay_out, run_part, finish = embedome_work.lay_out_part, embedome_work.run_part, embedome_work.finish_part
    for events in (laid_out, running):
        events[16].set()  # there are 16 parts

    def number_of(part: embedome_parts.Part) -> int:
        return int(part.path.stem.split("-")[1])

    def lay_out_and_tell(part: embedome_parts.Part, job: EmbedJob) -> LaidOutPart:
        found = lay_out(part, job)
        laid_out[number_of(part)].set()
        return found

    def run_late(each: LaidOutPart, job: EmbedJob) -> RunningPart:
        running[number_of(each.part)].set()
        assert laid_out[number_of(each.part) + 1].wait(20)
        return run_part(each, job)

    def finish_late(each: RunningPart, job: EmbedJob) -> FinishedPart:
        assert running[number_of(each.part) + 1].wait(20)
        return finish(each, job)

    monkeypatch.setattr(embedome_work, "lay_out_part", lay_out_and_tell)
    monkeypatch.setattr(embedome_work, "run_part", run_late)
    monkeypatch.setattr(embedome_work, "finish_part", finish_late)
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


@pytest.mark.slow
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


@pytest.mark.parametrize("writers", [1, 3])
@pytest.mark.slow
def test_sigterm_waits_for_one_write_of_each_writer(
    model: Path, shard: Path, tmp_path: Path, processes: Processes, writers: int
) -> None:
    folder, begun = tmp_path / "out", tmp_path / "begun"
    rich = {"settings": EmbedSettings(per_residue=True), "machine": Machine(writers=writers)}
    process = processes.start(partial(write_slowly, work(shard, model, folder, **rich), begun, 3))
    wait_for(begun.exists)
    time.sleep(1)  # those after them are embedded meanwhile, and one waits
    process.terminate()
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    expected = [f"00000-{number:05d}" for number in range(writers)]
    assert sorted(begun.read_text().splitlines()) == [f"{name}.parquet" for name in expected]
    there = [f"{name}{end}" for name in expected for end in (".parquet", ".residues.parquet")]
    assert sorted(path.name for path in folder.iterdir()) == there


# Several writers of per-residue embeddings


@pytest.mark.parametrize(("policy", "overlap"), [("truncate", 0), ("window", 11)])
@pytest.mark.slow
def test_writers_change_no_byte(model: Path, shard: Path, tmp_path: Path, policy: str, overlap: int) -> None:
    rich = {"settings": EmbedSettings(long_sequences=policy, overlap=overlap, per_residue=True)}
    found = [run(shard, model, tmp_path / str(count), machine=Machine(writers=count), **rich) for count in (1, 3)]
    assert found[0] == found[1]
    assert_same(tmp_path / "1", tmp_path / "3")
    assert len(list((tmp_path / "3").glob("*.residues.parquet"))) == 16


def test_memory_is_that_of_a_part_for_each_writer_and_one_more(
    model: Path, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_part, finish = embedome_work.run_part, embedome_work.finish_part
    together, run_so_far, at_the_first_three = Barrier(3), [], []

    def run_and_tell(each: LaidOutPart, job: EmbedJob) -> RunningPart:
        run_so_far.append(each.part)
        return run_part(each, job)

    def finish_together(each: RunningPart, job: EmbedJob) -> FinishedPart:
        if each.part in run_so_far[:3]:
            together.wait(20)
            time.sleep(1)  # what can be run meanwhile is
            at_the_first_three.append(len(run_so_far))
            together.wait(20)
        return finish(each, job)

    monkeypatch.setattr(embedome_work, "run_part", run_and_tell)
    monkeypatch.setattr(embedome_work, "finish_part", finish_together)
    run(shard, model, tmp_path, settings=EmbedSettings(per_residue=True), machine=Machine(writers=3))
    assert at_the_first_three == [4, 4, 4]
    assert len(run_so_far) == 16


def publish_slowly(work: Callable[[], object], waiting: Path) -> None:
    """Work, with a long time between a part's per-residue embeddings and the part itself, but for the first part."""
    write_part = embedome_parts.write_part

    def slow(path: Path, *given: object) -> None:
        if not path.stem.endswith("-00000"):
            with waiting.open("a") as handle:
                handle.write(f"{path.name}\n")
            time.sleep(60)
        write_part(path, *given)

    with mock.patch.object(embedome_parts, "write_part", slow):
        stoppable(work)


@pytest.mark.slow
def test_a_killed_run_of_three_writers_goes_on(model: Path, shard: Path, tmp_path: Path, processes: Processes) -> None:
    rich, folder, waiting = {"settings": EmbedSettings(per_residue=True)}, tmp_path / "killed", tmp_path / "waiting"
    run(shard, model, tmp_path / "expected", **rich)
    three = work(shard, model, folder, machine=Machine(writers=3), **rich)
    process = processes.start(partial(publish_slowly, three, waiting))
    assert processes.kill(process, 0.0, lambda: waiting.exists() and len(waiting.read_text().splitlines()) == 3)
    kept = stamps(folder)
    assert {"00000-00000.parquet"} == {name for name in kept if "residues" not in name}
    assert len(kept) == 5
    three()
    assert_same(folder, tmp_path / "expected")
    first = {name: stamp for name, stamp in kept.items() if name.startswith("00000-00000.")}
    assert first.items() <= stamps(folder).items()


def test_memory_that_a_writer_lacks_is_told(
    model: Path, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = ResidueStates.finish

    def fail(self: ResidueStates) -> object:
        if self.states.shape[0] == lengths[5]:
            raise MemoryError
        return finish(self)

    sequences = [min(len(each), MAX_RESIDUES) for each in line.read_fasta(shard).values()]
    lengths = [sum(sequences[start : start + 5]) for start in range(0, 80, 5)]
    assert lengths.count(lengths[5]) == 1
    monkeypatch.setattr(ResidueStates, "finish", fail)
    with pytest.raises(UserError, match=r"^00000-00005\.parquet with its 5 sequences does not fit .* more memory"):
        run(shard, model, tmp_path, settings=EmbedSettings(per_residue=True), machine=Machine(writers=3))
    assert not (tmp_path / "00000.json").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_moves_within_a_part_and_ends_at_all_residues(model, shard, tmp_path, monkeypatch, workers):
    """One part of 80 sequences, a batch each few: what is shown before the part is written is neither 0 nor all."""
    seen = []
    monkeypatch.setattr("embedome.common.log.FOLLOW_EVERY_S", 0.001)

    def update(self: Progress, count: int) -> None:
        self.done += count
        seen.append(count)

    monkeypatch.setattr(Progress, "update", update)
    # Each window by itself; not in worker processes.
    monkeypatch.setattr(Engine, "batch_end", lambda self, layout, begin, budget: begin + 1)
    records = list(shard_records(shard))
    total = sum(len(record.sequence) for record in records)
    one = PartLimits(1000, 1e9, CostModel(1e-9, 0.0))
    given = arguments() | {"limits": one, "machine": Machine(workers=workers), "total": total}
    for again in (False, True):
        seen.clear()
        manifest = embed_records(iter(records), model, tmp_path / "00000.json", **given)
        assert len(manifest["parts"]) == 1
        assert sum(seen) == total
        # Of a part that is written already nothing is run.
        if workers == 1:
            assert (len([count for count in seen if count]) > 2) == (not again)
