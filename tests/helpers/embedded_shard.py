"""A shard that is embedded in a folder, and what lies there afterwards."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from embedome.embedding.embed import embed_shard
from embedome.embedding.settings import EmbedSettings
from helpers import small_run as line


def arguments() -> dict:
    return {"settings": EmbedSettings(), "limits": line.limits(5), "source": line.SOURCE}


def work(shard: Path, model: Path, folder: Path, **changes: object) -> Callable[[], dict]:
    return partial(embed_shard, shard, model, folder / "00000.json", **{**arguments(), **changes})


def run(shard: Path, model: Path, folder: Path, **changes: object) -> dict:
    return work(shard, model, folder, **changes)()


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in parts(folder)}


def assert_same(folder: Path, other: Path) -> None:
    assert line.snapshot(folder) == line.snapshot(other)
