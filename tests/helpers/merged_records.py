"""The records that the tests of merging embed and merge, and how they are split and sharded."""

import random

from embedome.splits.split_methods import SplitSettings
from helpers import small_run as line

SHARDS = {"val": 1, "test": 1, "train": 3}
PLAN = SplitSettings("hash", 1, 12, 12)


def records() -> list[tuple[str, str]]:
    """60 sequences, some longer than the model, of which 15 have one to three duplicates."""
    rng = random.Random(4)
    distinct = [line.random_sequence(rng, length) for length in [*range(1, 51), *range(60, 70)]]
    again = [sequence for sequence in rng.sample(distinct[5:], 15) for _ in range(rng.randint(1, 3))]
    again += distinct[-3:]
    sequences = distinct + again
    names = [f"P{i:04d}" for i in range(len(sequences))]
    rng.shuffle(names)
    return list(zip(names, sequences, strict=True))


RECORDS = records()
