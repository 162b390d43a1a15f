"""The same records in another order: the same splits, the same shards by content, the same data set."""

import json
import random
from pathlib import Path

import pytest
from embedome.embedding.settings import EmbedSettings
from helpers import small_run as line
from helpers.small_run import Line

SHARDS = {"val": 2, "test": 2, "train": 4}


def contents(made: Line) -> dict[str, list[str]]:
    """The digest of what each shard holds."""
    splits = json.loads((made.folder / "shards.json").read_text())["splits"]
    return {split: [shard["content_sha256"] for shard in shards] for split, shards in splits.items()}


def outcome(made: Line) -> list[list[tuple]]:
    """Splits, rows with their vectors and splits, and what was skipped, each in the order of the files."""
    return [
        line.rows(made.folder / "splits.parquet", "*"),
        line.rows(made.dataset / "split=*" / "*.parquet", "*"),
        line.rows(made.dataset / "_skipped.parquet", "*"),
    ]


@pytest.mark.slow
def test_the_order_of_the_input_changes_neither_splits_nor_shards_nor_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = line.random_records(11, [*range(2, 62), 70, 80])
    chance = random.Random(12)
    # Copies whose ids are before or after those of the first ones, so that either may come first in the file.
    records += [(f"{chance.choice('AZ')}{name}", sequence) for name, sequence in chance.sample(records, 20)]
    model = line.rough_model(tmp_path / "model")
    made = []
    for name in ("one", "other"):
        made.append(line.prepare(tmp_path / name, records, SHARDS, line.PLAN))
        made[-1].embed(model, EmbedSettings("float32", "skip"))
        made[-1].merge()
        chance.shuffle(records)
        monkeypatch.setattr("embedome.catalog.filter.RUN_BYTES", 500)
        monkeypatch.setattr("embedome.catalog.filter.CHUNK_BYTES", 100)
        monkeypatch.setattr("embedome.sequences.compressed.BLOCK_BYTES", 100)
    numbers = [line.rows(each.folder / "catalog" / "*.parquet", "id, record") for each in made]
    assert numbers[0] != numbers[1]
    assert contents(made[0]) == contents(made[1])
    assert all(len(set(shards)) == SHARDS[split] for split, shards in contents(made[0]).items())
    splits, rows, skipped = outcome(made[0])
    assert [splits, rows, skipped] == outcome(made[1])
    assert len(splits) == len(records) == len(rows) + len(skipped)
    assert skipped
