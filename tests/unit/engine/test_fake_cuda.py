"""The engine on a fake GPU: no operation mixes devices or dtypes, and the host never waits for the device."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.engine.batch_layout import lay_out
from embedome.engine.device import is_out_of_memory
from embedome.engine.engine import GROUP_BYTES, LONE_GROUP_TOKENS, MOST_PIECES, Embedded, Engine, token_budget
from embedome.engine.windows import LongPolicy, Sequences
from embedome.models.directory import load_model
from helpers import small_run as line
from helpers.fake_cuda import CUDA, FakeCuda, HostWaitsError
from helpers.saved_models import KINDS, make
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorDeviceMismatchError
from torch.utils._python_dispatch import TorchDispatchMode

ARCHITECTURES = (
    "esm",
    "esm1b, head",
    "megatron",
    "bert",
    "roberta, head",
    "esmc",
    "blenderbot",
    "t5",
    "t5, whole",
    "t5, decoder",
    "t5, gated decoder",
)
WAITED = "cpu to cuda, waited for"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(KINDS[name], tmp_path_factory.mktemp("model")) for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return line.rough_model(tmp_path_factory.mktemp("engine") / "model")


def sequences(lengths: list[int]) -> Sequences:
    return Sequences.join([b"M" * length for length in lengths])


@contextmanager
def fake_engine(
    folder: Path, kind: str = "", cuda: FakeCuda | None = None, **options: object
) -> Iterator[tuple[Engine, FakeCuda]]:
    """An engine on a fake GPU, while the context is entered."""
    model = load_model(folder, KINDS[kind].features if kind else "encoder")
    with (cuda or FakeCuda()).entered() as entered:
        yield Engine(model, device="cuda", **options), entered


# Devices, dtypes, and who waits for whom


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (kind, dtype)
        for kind in ARCHITECTURES
        for dtype in ("float32", "bfloat16", "float16")
        if not (kind.startswith("t5") and dtype == "float16")
    ],
)
@pytest.mark.slow
def test_the_host_waits_for_finished_vectors_only(folders: dict[str, Path], kind: str, dtype: str) -> None:
    part = sequences([1, 7, 7, 38])
    with fake_engine(folders[kind], kind, dtype=dtype) as (engine, cuda):
        engine.poolings = ("mean", "max", "first") if engine.tokenizer.first else ("mean", "max")
        # Constants of positions go there once.
        engine.embed(part)
        for engine.policy in (LongPolicy(), LongPolicy("window", 3, 20), LongPolicy("skip", 0, 20)):
            for engine.per_residue in (False, True):
                engine.max_residues = engine.policy.longest(38)
                cuda.copies.clear()
                found = engine.embed(part)
                assert cuda.copies[WAITED] == 0
                assert cuda.copies["cuda to cpu"] >= len(engine.poolings)
                assert all(vectors.dtype == np.float16 for vectors in found.vectors.values())
                states = [states.shape[1] for states in found.residues or []]
                assert states == [engine.dimension] * 4 * engine.per_residue


def test_layers_and_embeddings_alone_run_on_a_gpu(folders: dict[str, Path]) -> None:
    for kind in ARCHITECTURES:
        with fake_engine(folders[kind], kind, layer=0) as (engine, _):
            engine.embed(sequences([3, 4]))


FAULTS: dict[str, tuple[Callable[[torch.Tensor], object], type[Exception]]] = {
    "item": (lambda hidden: hidden.sum().item(), HostWaitsError),
    "bool": (lambda hidden: bool((hidden > 0).any()), HostWaitsError),
    "nonzero": (lambda hidden: hidden.nonzero(), HostWaitsError),
    "cpu": (lambda hidden: hidden.cpu(), HostWaitsError),
    "to": (lambda hidden: hidden.to("cpu"), HostWaitsError),
    "numpy": (lambda hidden: hidden.numpy(), HostWaitsError),
    "copy": (lambda hidden: torch.empty(hidden.shape, dtype=hidden.dtype).copy_(hidden), HostWaitsError),
    "another device": (lambda hidden: hidden + torch.ones(3, 1, 1), FakeTensorDeviceMismatchError),
    "another dtype": (
        lambda hidden: torch.nn.functional.linear(hidden, torch.empty(4, hidden.shape[-1], device=hidden.device)),
        TypeError,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_an_encoder_is_seen(rough: Path, fault: str) -> None:
    work, error = FAULTS[fault]
    with fake_engine(rough, dtype="bfloat16") as (engine, _):
        encode = engine.encoder.stream

        def faulty(groups: list[torch.Tensor]) -> list[torch.Tensor]:
            found = encode(groups)
            work(found[0])
            return found

        engine.encoder.stream = faulty
        with pytest.raises((error, DataDependentOutputException)):
            engine.embed(sequences([5, 5, 5]))


def test_vectors_are_not_read_before_they_have_arrived(rough: Path) -> None:
    with fake_engine(rough) as (engine, _):
        running = engine.run(lay_out(sequences([5]), engine.tokenizer, engine.policy, 20))
        with pytest.raises(HostWaitsError):
            running.vectors["mean"].host.numpy()
        engine.finish(running)


def test_queries_and_keys_are_rotated_in_few_operations(folders: dict[str, Path]) -> None:
    with fake_engine(folders["esm"], "esm", dtype="bfloat16") as (engine, cuda):
        cuda.operations.clear()
        engine.embed(sequences([9, 9, 12, 30]))
    assert cuda.operations["addcmul_"] == 2 * engine.encoder.n_layers


# Batches


def batches(engine: Engine, lengths: list[int], budget: int = 65536) -> list[list[int]]:
    """Return the lengths in each batch, of sequences of these lengths."""
    layout = lay_out(sequences(lengths), engine.tokenizer, engine.policy, engine.max_residues)
    found, begin = [], 0
    while begin < len(layout.order):
        end = engine.batch_end(layout, begin, budget)
        found.append(layout.lengths[begin:end].tolist())
        begin = end
    return found


def test_a_length_of_many_tokens_is_alone_and_small_ones_go_together(rough: Path) -> None:
    with fake_engine(rough) as (engine, _):
        pass
    many = -(-LONE_GROUP_TOKENS // 32)  # 30 residues and 2 special tokens
    assert batches(engine, [30] * many + [29] + [28] * 2) == [[30] * many, [29, 28, 28]]
    assert batches(engine, [30] * (many - 1) + [29] + [28] * 2) == [[30] * (many - 1) + [29, 28, 28]]
    # A small group takes as much of a large one as there is room for.
    found = batches(engine, [40] + [30] * 3 * many, budget=2 * LONE_GROUP_TOKENS)
    assert [len(batch) for batch in found[:2]] == [1 + (2 * LONE_GROUP_TOKENS - 42) // 32, 258]
    assert list(chain(*found)) == [40] + [30] * 3 * many


def test_a_batch_has_no_more_pieces_than_a_grid_of_cuda(rough: Path) -> None:
    with fake_engine(rough) as (engine, _):
        pass
    assert [len(batch) for batch in batches(engine, [1] * 70000, budget=1 << 20)] == [MOST_PIECES, 70000 - MOST_PIECES]


@pytest.mark.parametrize("kind", ["t5", "t5, decoder"])
def test_biases_of_a_batch_are_bounded(folders: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_engine(folders[kind], kind, dtype="bfloat16") as (engine, _):
        pass
    lengths = list(range(200, 260))
    assert len(batches(engine, lengths)) == 1
    # Of 2 heads, rows of 16 elements each of 2 bytes; the decoder has its own beside the encoder's.
    tables = 2 if kind == "t5, decoder" else 1
    bytes_of = {length: tables * 2 * (length + 1) * -(-(length + 1) // 16) * 16 * 2 for length in lengths}
    monkeypatch.setattr("embedome.engine.engine.GROUP_BYTES", 3 * bytes_of[259])
    found = batches(engine, lengths)
    assert sorted(chain(*found)) == lengths
    assert all(sum(bytes_of[length] for length in batch) <= 3 * bytes_of[259] for batch in found)
    assert all(len(batch) >= 3 for batch in found[:-1])
    # One that is beyond the bound by itself is alone.
    monkeypatch.setattr("embedome.engine.engine.GROUP_BYTES", 1)
    assert batches(engine, lengths) == [[length] for length in reversed(lengths)]
    assert GROUP_BYTES == 1 << 30


# Memory


class Exhausted(TorchDispatchMode):
    """Memory runs out at one operation."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.count = at, 0

    def __torch_dispatch__(
        self, operation: object, types: object, arguments: tuple = (), options: dict | None = None
    ) -> object:
        self.count += 1
        if self.count == self.at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return operation(*arguments, **(options or {}))


def embed_or_run_out(engine: Engine, part: Sequences, at: int) -> Embedded | None:
    """What became of sequences where memory runs out at an operation; None where that ends it."""
    try:
        with Exhausted(at):
            return engine.embed(part)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


@pytest.fixture
def no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for garbage takes half a second each time."""
    monkeypatch.setattr("embedome.engine.engine.free_memory", lambda: None)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(("policy", "per_residue"), [(LongPolicy(), False), (LongPolicy("window", 3, 20), True)])
@pytest.mark.slow
def test_memory_may_run_out_at_any_operation(rough: Path, policy: LongPolicy, per_residue: bool) -> None:
    """Either the vectors are the same, as the batch was run again, or the error says that memory is out."""
    chance = random.Random(7)
    part = Sequences.join([line.random_sequence(chance, length).encode() for length in (9, 9, 33, 4)])
    engine = Engine(load_model(rough), policy=policy, poolings=("mean", "max"), per_residue=per_residue)
    engine.token_budget = 24
    expected = engine.embed(part)
    with Exhausted(0) as undisturbed:
        engine.embed(part)
    survived = 0
    for at in range(1, undisturbed.count + 1):
        found = embed_or_run_out(engine, part, at)
        if found is None:
            continue
        if found.skipped.any():
            assert set(found.state[found.skipped]) == {"out-of-memory"}
        survived += 1
        for name, vectors in expected.vectors.items():
            assert np.allclose(found.vectors[name][~found.skipped], vectors[~found.skipped], rtol=1e-3, atol=1e-4)
        for index in np.flatnonzero(~found.skipped) if per_residue else ():
            assert np.allclose(found.residues[index], expected.residues[index], rtol=1e-3, atol=1e-4)
    assert survived > 0.8 * undisturbed.count


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("kind", ["esm", "t5, decoder"])
@pytest.mark.slow
def test_memory_of_a_gpu_may_run_out_at_any_operation(folders: dict[str, Path], kind: str) -> None:
    part = sequences([9, 9, 33, 4, 4, 4])
    with fake_engine(folders[kind], kind, per_residue=True) as (engine, _):
        engine.token_budget = 40
        with Exhausted(0) as undisturbed:
            engine.embed(part)
        for at in range(1, undisturbed.count + 1, undisturbed.count // 12):
            found = embed_or_run_out(engine, part, at)
            if found is not None:
                assert set(found.state[found.skipped].tolist()) <= {"out-of-memory"}


def test_what_torch_keeps_of_a_gpu_without_using_it_counts_as_free(
    rough: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_model(rough).encoder
    with FakeCuda(free=1 << 20).entered():
        alone = token_budget(encoder, CUDA)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 100 << 20)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 93 << 20)
        assert token_budget(encoder, CUDA) == 8 * alone


# Older GPUs


@pytest.mark.parametrize(("kind", "others"), [("esm", "float16 or float32"), ("t5", "float32")])
def test_bfloat16_is_refused_where_a_gpu_only_emulates_it(folders: dict[str, Path], kind: str, others: str) -> None:
    older, refusal = FakeCuda(capability=(7, 5)), rf"bfloat16, which a fake GPU has not .* use {others}, or another GPU"
    with pytest.raises(UserError, match=refusal), fake_engine(folders[kind], kind, older, dtype="bfloat16"):
        pass
    with fake_engine(folders[kind], kind, older, dtype="float32"):
        pass
