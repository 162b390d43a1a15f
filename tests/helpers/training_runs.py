"""Small runs of pretraining, in this process or in several that torchrun would start."""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from embedome.common.errors import UserError
from embedome.training.run import train_run
from embedome.training.settings import PretrainSettings
from embedome.training.trainer import Trainer
from helpers.small_run import Processes
from helpers.stores import random_sequences, store_of

SETTINGS = PretrainSettings(
    name="small",
    recipe="demo",
    steps=12,
    tokens=600,
    sizes={"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 24, "positions": 100},
    threads=1,
)


def make_stores(folder: Path) -> Path:
    """Stores of train and of val sequences."""
    store_of(folder / "train", random_sequences(150, 1))
    store_of(folder / "val", random_sequences(20, 2))
    return folder


def train_in(data: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """A run in this process."""
    return train_run(data / "train", data / "val", folder / "run", folder / "model", replace(SETTINGS, **changes))


def train_as_rank(rank: int, ranks: int, port: int, data: Path, folder: Path, changes: dict[str, Any]) -> None:
    """A rank's part of a run."""
    if ranks > 1:
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in own.items()})
    train_in(data, folder, **changes)


def disagree_as_rank(rank: int, ranks: int, port: int, data: Path, folder: Path, changes: dict[str, Any]) -> None:
    """A rank's part of a run of which each rank has another seed; what it is told is kept."""
    try:
        train_as_rank(rank, ranks, port, data, folder, {**changes, "seed": rank})
    except UserError as error:
        (data / f"told-{rank}").write_text(str(error))


def save_slowly_as_rank(rank: int, ranks: int, port: int, data: Path, folder: Path, changes: dict[str, Any]) -> None:
    """A rank's part of a run whose first rank takes a second for each checkpoint."""
    save = Trainer.save

    def save_slowly(trainer: Trainer) -> None:
        time.sleep(rank == 0)
        save(trainer)

    Trainer.save = save_slowly  # type: ignore[method-assign]
    train_as_rank(rank, ranks, port, data, folder, changes)


def start_ranks(
    processes: Processes, ranks: int, data: Path, folder: Path, work: Callable = train_as_rank, **changes: Any
) -> list:
    """Start the ranks of a run, a process each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [processes.start(partial(work, rank, ranks, port, data, folder, changes)) for rank in range(ranks)]


def run_ranks(processes: Processes, ranks: int, data: Path, folder: Path, **changes: Any) -> None:
    """Run the ranks of a run to their end."""
    for process in start_ranks(processes, ranks, data, folder, **changes):
        process.join(120)
        assert process.exitcode == 0


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's training.jsonl."""
    return [json.loads(line) for line in (folder / "run" / "training.jsonl").read_text().splitlines()]


def curve_of(folder: Path) -> list[float]:
    """Loss after loss, in training and in validation."""
    return [line.get("validation", line)["loss"] for line in lines_of(folder)]
