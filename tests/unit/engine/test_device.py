"""A GPU is opened, or what is wrong with it is one line that says what to do."""

import logging
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from embedome.common.errors import UserError
from embedome.common.locks import try_lock
from embedome.engine import device as devices
from embedome.engine.device import claim_gpu, open_gpu, unused_memory, use_device


class Gpus:
    """What torch says of some GPUs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, first: Callable[[], object] = lambda: None) -> None:
        self.chosen: list[int] = []
        empty = torch.empty(1)

        def zeros(size: int, device: torch.device) -> torch.Tensor:
            first()
            return empty

        for name, replacement in {
            "is_available": lambda: count > 0,
            "device_count": lambda: count,
            "set_device": self.chosen.append,
            "synchronize": lambda device: None,
            "get_device_name": lambda device: "Tesla V100",
            "get_device_capability": lambda device: (7, 0),
            "get_arch_list": lambda: ["sm_75", "sm_90"],
            "get_device_properties": lambda index: SimpleNamespace(uuid=f"GPU-{index}"),
        }.items():
            monkeypatch.setattr(torch.cuda, name, replacement)
        monkeypatch.setattr(torch, "zeros", zeros)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Locks in the test's folder, and no GPU of another test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "")
    open_gpu.cache_clear()
    with ExitStack() as stack:
        monkeypatch.setattr(devices, "claims", stack)
        yield
    open_gpu.cache_clear()


def failing(message: str) -> Callable[[], None]:
    """A first operation that fails."""

    def fail() -> None:
        raise RuntimeError(message)

    return fail


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors", "install a torch"),
        ("CUDA error: all CUDA-capable devices are busy or unavailable", "compute mode exclusive"),
        ("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`", "memory is taken by other processes"),
        ("CUDA error: unspecified launch failure", "see docs/cluster.md"),
    ],
)
def test_a_gpu_that_does_not_compute_is_one_line(monkeypatch: pytest.MonkeyPatch, message: str, remedy: str) -> None:
    Gpus(monkeypatch, 1, failing(message))
    with pytest.raises(UserError) as error:
        use_device("cuda")
    told = str(error.value)
    assert "\n" not in told
    assert remedy in told
    for fact in ("Tesla V100", "compute capability 7.0", "sm_75, sm_90", socket.gethostname(), message.split("\n")[0]):
        assert fact in told


def test_what_the_driver_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpus(monkeypatch, 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(
        torch.cuda, "init", failing("The NVIDIA driver on your system is too old (found version 11040).")
    )
    with pytest.raises(
        UserError, match=r"sees none on .* \(The NVIDIA driver .* too old \(found version 11040\)\)"
    ) as error:
        use_device("cuda")
    assert "built for CUDA 13.0" in str(error.value)


def test_a_gpu_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch, 1)
    assert {use_device("cuda"), use_device("cuda")} == {torch.device("cuda", 0)}
    assert gpus.chosen == [0]


def test_jobs_on_one_host_take_gpus_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Gpus(monkeypatch, 3)
    with ExitStack() as others:
        for expected in (0, 1, 2):
            with ExitStack() as job:
                monkeypatch.setattr(devices, "claims", job)
                assert claim_gpu(3) == expected
                held = job.pop_all()
            others.enter_context(held)
        # All are taken: better slow than not at all.
        with caplog.at_level(logging.WARNING):
            assert claim_gpu(3) in (0, 1, 2)
        assert "all 3 GPUs are in use" in caplog.text
    # Their jobs have ended.
    assert claim_gpu(3) == 0
    assert {path.name for path in tmp_path.rglob("*.lock")} == {f"GPU-{index}.lock" for index in range(3)}


def test_a_gpu_that_another_process_holds_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Gpus(monkeypatch, 2)
    with ExitStack() as job:
        monkeypatch.setattr(devices, "claims", job)
        claim_gpu(2)
    (lock,) = tmp_path.rglob("GPU-0.lock")
    with try_lock(lock) as held:
        assert held
        assert use_device("cuda") == torch.device("cuda", 1)


def test_a_single_gpu_needs_no_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Gpus(monkeypatch, 1)
    assert claim_gpu(1) == 0
    assert not list(tmp_path.iterdir())


def test_unused_memory_counts_what_torch_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert unused_memory(torch.device("cuda", 0)) == 37


def test_a_gpu_that_a_launcher_deals_out_is_taken_without_a_lock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Gpus(monkeypatch, 3)
    assert use_device("cuda", 2) == torch.device("cuda", 2)
    assert not list(tmp_path.rglob("*.lock"))
